"""JSON schemas and grammars -> which tokens may come next.

The grammar engine is llguidance (https://github.com/guidance-ai/llguidance). Knows the tokenizer; knows no logits, no
batch and no HTTP. No torch.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
from llguidance import LLMatcher, LLParserLimits, LLTokenizer

JSON_OPTIONS = {
    # A model that is not sure would otherwise write blanks until its last token.
    "whitespace_pattern": r"[\x20\x0A\x0D\x09]{1,20}",
    # Exactly-one-of becomes any-of: alternatives of real schemas hardly ever overlap.
    "coerce_one_of": True,
}
LARGEST_GRAMMAR = 200_000
"""Characters. What a grammar costs grows with the square of its width: this one may take some seconds at the worst."""
MOST_PLACES = 200
"""How many parts of a wrong schema are tried, to find the place."""
PLACE_SECONDS = 1.0
"""How long that may take: each part is made a grammar with all definitions."""
SUBSCHEMAS = ("items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames")
LISTS_OF_SUBSCHEMAS = ("prefixItems", "items", "anyOf", "oneOf", "allOf")
NAMED_SUBSCHEMAS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")

_LOOKAROUND = re.compile(r"\(\?<?[=!]|\\[1-9]")


class GrammarRefused(Exception):
    """A grammar or a schema that cannot be held: `place` is a JSON pointer into the schema ("" is the whole of it)."""

    def __init__(self, reason: str, place: str = "") -> None:
        super().__init__(reason)
        self.place = place


class Constraint:
    """One answer's grammar, and where in it the answer is. Used by one thread at a time."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher
        self.error: str | None = None
        """Why the grammar cannot go on: it became too complex to compute."""

    def allows(self, token: int) -> bool:
        """Whether this token may come next in a text that has not ended; quicker than a mask. A mask may be narrower:
        where the grammar leaves only one text, it wants that text's own tokens."""
        return bool(self._matcher.validate_tokens([token]) == 1)

    def mask(self) -> npt.NDArray[np.uint8]:
        """One bit for each token of the vocabulary, least significant first: whether it may come next."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        self._check()
        return bits

    def accept(self, token: int) -> None:
        """Go on by one token."""
        self._matcher.consume_token(token)
        self._check()

    @property
    def ended(self) -> bool:
        """Whether the grammar is fulfilled and nothing can follow but the end."""
        return self.error is None and bool(self._matcher.is_stopped())

    def copy(self) -> Constraint:
        """The same place in the same grammar, for another answer."""
        return Constraint(self._matcher.deep_copy())

    def _check(self) -> None:
        if self.error is None and self._matcher.is_error():
            self.error = _first_line(self._matcher.get_error())


class Vocabulary:
    """The bytes of every token, as grammars need them. Any thread may ask.

    Making it takes a second with 130,000 tokens, and no other thread runs meanwhile: it is made while the model loads.
    """

    def __init__(self, tokenizer: Any, size: int, end_tokens: Iterable[int]) -> None:
        self._tokenizer, self._end_tokens = tokenizer, sorted(end_tokens)
        # Through llguidance.hf it would be copied once more.
        backend = tokenizer.backend_tokenizer
        written = backend.to_str()
        if backend.padding or backend.truncation:
            # Those are for other uses of the tokenizer, and would cut a grammar's texts.
            written = json.dumps(json.loads(written) | {"padding": None, "truncation": None})
        self._made: LLTokenizer | None = None
        self._reason = ""
        try:
            # Never smaller than the tokenizer: what the model has no logits for is cut off its masks.
            self._made = LLTokenizer(written, n_vocab=max(size, len(tokenizer)), eos_token=self._end_tokens)
        except ValueError as error:
            self._reason = f"the model's tokenizer cannot be used for it: {_first_line(str(error))}"

    def _tokens(self) -> LLTokenizer:
        if self._made is None:
            raise GrammarRefused(self._reason)
        return self._made

    def bytes_of(self, token: int) -> bytes:
        """What a token writes: whole characters or a part of one. Raises GrammarRefused."""
        return bytes(self._tokens().decode_bytes([token]))

    def spell(self, text: str) -> list[str | int]:
        """A text's parts: text, and the ids of tokens that a grammar takes for no text. Raises GrammarRefused."""
        marks = {str(token): number for number, token in self._marks()}
        if not marks:
            return [text] if text else []
        pattern = "|".join(re.escape(mark) for mark in sorted(marks, key=len, reverse=True))
        return [marks[part] if part in marks else str(part) for part in re.split(f"({pattern})", text) if part]

    def words(self) -> list[int]:
        """Tokens that a grammar takes for no text and the model's tokenizer for text, such as <think>. Raises
        GrammarRefused."""
        return [number for number, token in self._marks() if not token.special and number not in self._end_tokens]

    def _marks(self) -> list[tuple[int, Any]]:
        made, added = self._tokens(), self._tokenizer.added_tokens_decoder
        return [(number, token) for number, token in added.items() if made.is_special_token(number)]

    def constraint(self, grammar: str) -> Constraint:
        """The beginning of a grammar in llguidance's own form. Raises GrammarRefused."""
        if len(grammar) > LARGEST_GRAMMAR:
            raise GrammarRefused(f"it has {len(grammar)} characters, and at most {LARGEST_GRAMMAR} can be held")
        # Errors without the parser's state, which has the schema in it.
        matcher = LLMatcher(self._tokens(), grammar, log_level=0, limits=LLParserLimits(verbose_errors=False))
        constraint = Constraint(matcher)
        if not matcher.is_error():
            # The first mask shows what only then is found: a grammar that no text fulfils, or that is too large.
            matcher.compute_bitmask()
        if matcher.is_error():
            reason = _first_line(matcher.get_error())
            raise GrammarRefused("no text fulfils it" if reason.startswith("NoExtension") else reason)
        return constraint

    def json_constraint(self, schema: Mapping[str, Any]) -> Constraint:
        """Text that is JSON and obeys the schema. Raises GrammarRefused with the place in the schema."""
        try:
            return self.constraint(json_grammar(schema, strict=True))
        except GrammarRefused:
            self.check_schema(schema, strict=True)
            raise

    def check_schema(self, schema: Mapping[str, Any], *, strict: bool) -> None:
        """Raises GrammarRefused with the place in the schema."""

        def problem(part: Any) -> str | None:
            try:
                self.constraint(json_grammar(part if isinstance(part, dict) else {"allOf": [part]}, strict=strict))
            except GrammarRefused as error:
                return str(error)
            return None

        reason = problem(schema)
        if reason is not None:
            raise GrammarRefused(reason, _place(schema, reason, problem))


def without_lookaround(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The same schema without patterns that look around or back: the one thing that leniency itself does not let go."""

    def held(part: dict[str, Any]) -> dict[str, Any]:
        pattern = part.get("pattern")
        if not isinstance(pattern, str) or not _LOOKAROUND.search(pattern):
            return part
        return {name: value for name, value in part.items() if name != "pattern"}

    # By JSON's own reader, which minds no depth.
    read: dict[str, Any] = json.loads(json.dumps(schema), object_hook=held)
    return read


def json_grammar(schema: Mapping[str, Any], *, strict: bool) -> str:
    """llguidance's form of a JSON schema. `strict` refuses keywords that the grammar cannot hold; else they are left
    to the model. Raises GrammarRefused when it is not JSON."""
    try:
        text = json.dumps(schema, allow_nan=False)
        return LLMatcher.grammar_from_json_schema(text, overrides=json_options(strict=strict))
    except (ValueError, RecursionError) as error:
        raise GrammarRefused(_first_line(str(error))) from None


def json_options(*, strict: bool) -> Any:
    """How JSON is written, as llguidance's `x-guidance` says it."""
    return {**JSON_OPTIONS, "lenient": not strict}


def _place(schema: Mapping[str, Any], reason: str, problem: Callable[[Any], str | None]) -> str:
    """A JSON pointer (RFC 6901) to the innermost part of the schema that is wrong by itself in the same way."""
    definitions = {name: schema[name] for name in ("$defs", "definitions") if name in schema}
    pointer, part, found, left = "", dict(schema), True, MOST_PLACES
    end = time.monotonic() + PLACE_SECONDS
    while found and isinstance(part, dict):
        found = False
        for names, inner in islice(_parts(part), left):
            if time.monotonic() > end:
                return pointer
            left -= 1
            alone = {**definitions, **inner} if isinstance(inner, dict) else inner
            if problem(alone) == reason:
                pointer += "".join("/" + name.replace("~", "~0").replace("/", "~1") for name in names)
                part, found = inner, True
                break
    return pointer


def _parts(schema: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The schemas inside a schema, each with its place."""
    for name in SUBSCHEMAS:
        if name in schema:
            yield (name,), schema[name]
    for name in LISTS_OF_SUBSCHEMAS:
        if isinstance(schema.get(name), list):
            yield from (((name, str(number)), part) for number, part in enumerate(schema[name]))
    for name in NAMED_SUBSCHEMAS:
        if isinstance(schema.get(name), dict):
            yield from (((name, key), part) for key, part in schema[name].items())


def _first_line(message: str) -> str:
    """A library's message in one line: without the picture of the place that follows, and of a bounded length."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    if len(lines) > 1 and lines[0].startswith("regex parse error"):
        return f"{lines[0]} {lines[-1]}"[:300]
    return lines[0][:300] if lines else "it cannot be used"
