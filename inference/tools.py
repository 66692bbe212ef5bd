"""Tool calls in the form of the model's own chat template: found out by rendering some, held by a grammar, read back.

A template that writes a call as its function's name and then its arguments as JSON, with anything around them, tells
all that is needed: <tool_call> of Hermes and Qwen, the bare JSON of Llama 3, [TOOL_CALLS] of Mistral are such. Knows
templates and text; knows no model, no tokens and no HTTP.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

CALL_ID_LENGTH = 9
"""Mistral's templates take ids of nine letters and digits and nothing else; no other template minds."""

FUNCTION_NAME = "[a-zA-Z0-9_-]+"

# What is rendered to find out the form: words that stand in no template.
_NAMES = ("probeFirstFunction", "probeSecondFunction")
_IDS = ("probeId01", "probeId02")
_ARGUMENT, _VALUE, _RESULT, _TEXT = "probeArgument", "probeValue", "probeResult", "probeText"
_ARGUMENTS = re.compile(rf'\{{\s*"{_ARGUMENT}"\s*:\s*"{_VALUE}"\s*\}}')
_NAME_LAST = re.compile(
    rf'\{{\s*("\w+"\s*:\s*{_ARGUMENTS.pattern})\s*,\s*("name"\s*:\s*"(?:{"|".join(_NAMES)})")\s*\}}', re.ASCII
)
_NO_THOUGHTS = re.compile(r"\s*<think>\s*</think>\s*")

Render = Callable[[Sequence[Mapping[str, Any]], Sequence[Mapping[str, Any]], bool], str]
"""(messages, tools, whether an answer is to begin) -> the prompt's text. Raises RenderFailed."""

Spell = Callable[[str], Sequence[str | int]]
"""Text -> its parts: text, and the ids of tokens that are no text but marks."""


class RenderFailed(Exception):
    """The template refuses what it is given."""


class CallsUnknown(Exception):
    """The model's template writes no tools, or writes calls in a form that cannot be read."""


@dataclass(frozen=True)
class Function:
    """A function that may be called, and the JSON schema of its arguments as the grammar engine takes it."""

    name: str
    schema: Mapping[str, Any]


@dataclass(frozen=True)
class CallSyntax:
    """opening NAME middle ARGUMENTS (between NAME middle ARGUMENTS)* closing; an id in them stands as _IDS[0]."""

    mark: str
    """The beginning of `opening` that no other text has; "" when a call can only be told at an answer's beginning."""
    opening: str
    middle: str
    between: str | None
    """None: the template writes only one call in an answer."""
    closing: str
    arguments_as_text: bool
    """Whether the template wants the arguments of earlier calls as JSON text, not as an object."""
    renders_results: bool
    """Whether messages of the role `tool` reach the model."""

    def grammar(
        self,
        functions: Sequence[Function],
        *,
        required: bool,
        several: bool,
        text_schema: Mapping[str, Any] | None,
        spell: Spell,
        words: Sequence[int],
    ) -> str:
        """A grammar in Lark's form (https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md) of an answer.

        Without `required` an answer may also be text (JSON when `text_schema` says which), and calls may follow text.
        `words` are the tokens that may stand in text although they are marks to the grammar.
        """
        rules = []
        calls = "call (between call)* closing" if several and self.between is not None else "call closing"
        rules.append("call: " + " | ".join(f"function_{number}" for number in range(len(functions))))
        for number, function in enumerate(functions):
            head = _literal(function.name + self.middle, spell)
            rules.append(f"function_{number}: {head} %json {json.dumps(function.schema)}")
        if several and self.between is not None:
            rules.append(f"between: {_literal(self.between, spell)}")
        rules.append(f"closing: {_literal(self.closing, spell)}" if self.closing else 'closing: ""')
        opening, after_mark = _literal(self.opening, spell), _literal(self.opening[len(self.mark) :], spell)
        if required:
            rules.append(f"start: {opening} {calls}")
        elif text_schema is not None:
            rules.append(f"start: {opening} {calls} | %json {json.dumps(text_schema)}")
        elif self.mark:
            marks = spell(self.mark)
            mark = _literal(self.mark, spell)
            if all(isinstance(part, str) for part in marks):
                # The first one in a text ends it; a token that is a mark can stand in none.
                rules.append(rf"marked[lazy]: /(.|\n)*/ {mark}")
                mark = "marked"
            rules.append(f"start: text {mark} {after_mark} {calls} | text")
            rules.append("text: (TEXT" + "".join(f" | <[{word}]>" for word in words if word not in marks) + ")*")
            rules.append(r"TEXT: /(.|\n)+/")
        else:
            rules.append(f"start: {opening} {calls} | TEXT")
            rules.append(rf"TEXT: /(.|\n)*/ & ~/{_pattern(self.opening)}(.|\n)*/")
        return "\n".join(rules)


def _literal(text: str, spell: Spell) -> str:
    """Lark's form of a text that stands as it is, with any id where an id is."""
    parts = []
    for number, piece in enumerate(text.split(_IDS[0])):
        if number:
            parts.append(f"/[a-zA-Z0-9]{{{CALL_ID_LENGTH}}}/")
        for part in spell(piece):
            parts.append(f"<[{part}]>" if isinstance(part, int) else json.dumps(part))
    return " ".join(parts)


def _pattern(text: str) -> str:
    """A regular expression of the same text."""
    anything = f"[a-zA-Z0-9]{{{CALL_ID_LENGTH}}}"
    return anything.join(re.escape(piece).replace("/", r"\/") for piece in text.split(_IDS[0]))


# Found out


def find_call_syntax(render: Render, ends: Sequence[str], marks: Sequence[str]) -> CallSyntax:
    """The form in which a template writes calls. `ends` are the texts of the tokens that end an answer, `marks` those
    of tokens that the tokenizer never cuts. Raises CallsUnknown with the reason."""
    tools = [_probe_tool(name) for name in _NAMES]
    question = {"role": "user", "content": "probeQuestion"}
    try:
        told = render([question], tools, True)
        text = render([question, {"role": "assistant", "content": _TEXT}], tools, False)
    except RenderFailed as error:
        raise CallsUnknown(f"the model's chat template refuses tools: {error}") from None
    if _NAMES[0] not in told:
        raise CallsUnknown("the model's chat template does not tell the model about tools")
    reason = ""
    for as_text in (False, True):
        one, two = (_probe_calls(count, as_text) for count in (1, 2))
        try:
            answer = _where_they_part(text, _name_first(render([question, one], tools, False)), ends)
        except RenderFailed as error:
            reason = f"the model's chat template refuses tool calls: {error}"
            continue
        found = _cut(answer, _NAMES[0])
        if found is None:
            reason = "the model's chat template does not write a call as a name and then arguments in JSON"
            continue
        opening, middle, closing = found
        opening = opening.lstrip()
        return CallSyntax(
            mark=_mark(opening, marks),
            opening=opening,
            middle=middle,
            between=_between(render, [question, two], tools),
            closing=closing,
            arguments_as_text=as_text,
            renders_results=_renders_results(render, [question, one], tools),
        )
    raise CallsUnknown(reason)


def _probe_tool(name: str) -> dict[str, Any]:
    properties = {_ARGUMENT: {"type": "string", "description": "a word"}}
    parameters = {"type": "object", "properties": properties, "required": [_ARGUMENT]}
    return {"type": "function", "function": {"name": name, "description": "a probe", "parameters": parameters}}


def _probe_calls(count: int, as_text: bool) -> dict[str, Any]:
    arguments: Any = {_ARGUMENT: _VALUE}
    if as_text:
        arguments = json.dumps(arguments)
    calls = [
        {"id": identity, "type": "function", "function": {"name": name, "arguments": arguments}}
        for identity, name in zip(_IDS[:count], _NAMES, strict=False)
    ]
    return {"role": "assistant", "content": "", "tool_calls": calls}


def _name_first(prompt: str) -> str:
    """Calls whose object has its name at the end, turned: an object's members have no order, and a stream of calls
    begins with their names."""
    return _NAME_LAST.sub(r"{\2, \1}", prompt)


def _where_they_part(text: str, whole: str, ends: Sequence[str]) -> str:
    """What the assistant writes instead of a text in the same place, up to the token that ends it."""
    shared = next((at for at, (one, other) in enumerate(zip(text, whole, strict=False)) if one != other), len(text))
    written = whole[shared:]
    if thoughts := _NO_THOUGHTS.match(written):
        written = written[thoughts.end() :]
    cut = min((at for at in (written.find(end) for end in ends if end) if at >= 0), default=len(written))
    return written[:cut]


def _cut(answer: str, name: str) -> tuple[str, str, str] | None:
    """What stands before a call's name, between name and arguments, and after them."""
    at = answer.find(name)
    arguments = _ARGUMENTS.search(answer, at + len(name)) if at >= 0 else None
    if arguments is None:
        return None
    return answer[:at], answer[at + len(name) : arguments.start()], answer[arguments.end() :]


def _between(render: Render, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]) -> str | None:
    try:
        answer = _name_first(render(messages, tools, False))
    except RenderFailed:
        return None
    at = answer.rfind(_NAMES[1])
    arguments = [found for found in _ARGUMENTS.finditer(answer) if found.end() <= at]
    return answer[arguments[-1].end() : at].replace(_IDS[1], _IDS[0]) if arguments else None


def _renders_results(render: Render, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]) -> bool:
    result = {"role": "tool", "tool_call_id": _IDS[0], "name": _NAMES[0], "content": _RESULT}
    try:
        return _RESULT in render([*messages, result], tools, True)
    except RenderFailed:
        return False


def _mark(opening: str, marks: Sequence[str]) -> str:
    uncut = max((mark for mark in marks if mark and opening.startswith(mark)), key=len, default="")
    if uncut:
        return uncut
    word = re.match(r"[^\s{]+", opening)
    return word.group() if word else ""


# Read back


@dataclass(frozen=True)
class CallBegins:
    """A call of this function begins: the answer's first one has the number 0."""

    number: int
    name: str


@dataclass(frozen=True)
class ArgumentsPiece:
    """The next part of a call's arguments, which are JSON."""

    number: int
    text: str


CallPiece = CallBegins | ArgumentsPiece
Piece = str | CallPiece


class CallReader:
    """An answer's text, as it comes -> its text and its calls, as soon as they are certain."""

    def __init__(self, syntax: CallSyntax) -> None:
        self._syntax = syntax
        self._rest = ""
        self._read: Callable[[], list[Piece] | None] = self._text
        self._first = re.compile(_pattern(syntax.opening) + f"({FUNCTION_NAME})" + _pattern(syntax.middle))
        self._next = re.compile(_pattern(syntax.between or "") + f"({FUNCTION_NAME})" + _pattern(syntax.middle))
        self._depth, self._in_string, self._escaped = 0, False, False
        self.calls = 0
        """How many calls have begun."""

    @property
    def called(self) -> bool:
        """Whether there are calls, and the last one's arguments are whole."""
        return self.calls > 0 and self._read == self._head

    def push(self, text: str) -> list[Piece]:
        """Take the next part of the answer."""
        self._rest += text
        pieces: list[Piece] = []
        while (more := self._read()) is not None:
            pieces += more
        return pieces

    def finish(self) -> str:
        """The text that was held back, at the end of the answer; a call that has not begun is none."""
        return self._rest if self._read == self._text else ""

    # Each of these takes what it can from the rest, and gives None when it needs more.

    def _text(self) -> list[Piece] | None:
        mark = self._syntax.mark or self._syntax.opening
        at = self._rest.find(mark) if self._syntax.mark else 0 if self._rest.startswith(mark) else -1
        if at >= 0:
            before, self._rest = self._rest[:at].rstrip(), self._rest[at:]
            self._read = self._head
            return [before] if before else []
        if not self._syntax.mark and not mark.startswith(self._rest):
            self._read = self._only_text
            return []
        # A mark may have begun, and blanks before it are none of the text.
        length = next((size for size in range(len(mark) - 1, 0, -1) if self._rest.endswith(mark[:size])), 0)
        certain = self._rest[: len(self._rest) - length].rstrip()
        self._rest = self._rest[len(certain) :]
        return [certain] if certain else None

    def _only_text(self) -> list[Piece] | None:
        text, self._rest = self._rest, ""
        return [text] if text else None

    def _head(self) -> list[Piece] | None:
        found = (self._next if self.calls else self._first).match(self._rest)
        if found is None:
            return None
        self._rest = self._rest[found.end() :]
        self.calls += 1
        self._read = self._arguments
        return [CallBegins(self.calls - 1, found.group(1))]

    def _arguments(self) -> list[Piece] | None:
        for at, character in enumerate(self._rest):
            if self._escaped:
                self._escaped = False
            elif self._in_string:
                self._escaped, self._in_string = character == "\\", character != '"'
            elif character == '"':
                self._in_string = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if self._depth == 0:
                    arguments, self._rest = self._rest[: at + 1], self._rest[at + 1 :]
                    self._read = self._head
                    return [ArgumentsPiece(self.calls - 1, arguments)]
        arguments, self._rest = self._rest, ""
        return [ArgumentsPiece(self.calls - 1, arguments)] if arguments else None
