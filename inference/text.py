"""Messages and texts -> prompt tokens, and tokens -> text as it can be shown.

Knows the tokenizer and its chat template; knows no model, no batch and no HTTP. No torch.
"""

from __future__ import annotations

import inspect
import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tokenizers.decoders import DecodeStream
from tools import CallPiece, CallReader, CallsUnknown, CallSyntax, RenderFailed, find_call_syntax


class PromptRefused(Exception):
    """What was said cannot be made a prompt: no chat template, one that refuses the messages, or half a character."""


class ArgumentRefused(PromptRefused):
    """The template has no variable of this name for a request to set."""

    def __init__(self, name: str) -> None:
        super().__init__(f"the model's chat template has no variable `{name}` for a request to set")
        self.name = name


class PromptRenderer:
    """Renders chat messages with the model's own template. May be called from any thread."""

    def __init__(self, tokenizer: Any, end_tokens: Iterable[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._ends = [str(tokenizer.convert_ids_to_tokens(token)) for token in end_tokens]
        self._uncut = [str(token) for token in tokenizer.added_tokens_decoder.values()]
        self._call_syntax: CallSyntax | CallsUnknown | None = None
        # A tokenizer keeps its padding and truncation as state, so two threads must not encode at the same moment.
        self._lock = threading.Lock()

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] = (),
        arguments: Mapping[str, Any] = {},
    ) -> list[int]:
        """Token ids of the messages, of the functions that may be called, and of the opening of the assistant's
        answer. arguments are variables of the template. Raises PromptRefused."""
        foreign = next((name for name in arguments if not self._is_argument(name)), None)
        if foreign is not None:
            raise ArgumentRefused(foreign)
        try:
            text = self._text(messages, tools, True, arguments)
        except RenderFailed as error:
            raise PromptRefused(f"the model's chat template refuses these messages: {error}") from None
        # The template writes the opening special tokens itself.
        return self._encode(text, special=False)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text as the tokenizer begins texts, which may be with a token of its own. Raises
        PromptRefused."""
        return self._encode(text, special=True)

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens, special ones left out."""
        with self._lock:
            return str(self._tokenizer.decode(list(tokens), skip_special_tokens=True))

    def call_syntax(self) -> CallSyntax:
        """How this model's template writes tool calls. Raises CallsUnknown."""
        if self._call_syntax is None:
            try:
                self._call_syntax = find_call_syntax(self._text, self._ends, self._uncut)
            except (CallsUnknown, PromptRefused) as error:
                self._call_syntax = CallsUnknown(str(error))
        if isinstance(self._call_syntax, CallsUnknown):
            raise self._call_syntax
        return self._call_syntax

    def _is_argument(self, name: str) -> bool:
        """Whether the template has the word, and it is neither what the tokenizer fills in nor one of its options."""
        options = inspect.signature(self._tokenizer.apply_chat_template).parameters
        if name in (*options, *self._tokenizer.special_tokens_map, "messages") or not name.isidentifier():
            return False
        templates = self._tokenizer.chat_template or ""
        texts = templates.values() if isinstance(templates, dict) else [templates]
        return any(re.search(rf"\b{name}\b", text) for text in texts)

    def _text(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]],
        answers: bool,
        arguments: Mapping[str, Any] = {},
    ) -> str:
        from jinja2.exceptions import TemplateError

        if not self._tokenizer.chat_template:
            raise PromptRefused("the model has no chat template, so it cannot answer chat messages")
        with self._lock:
            try:
                text = self._tokenizer.apply_chat_template(
                    [dict(message) for message in messages],
                    tools=[dict(tool) for tool in tools] or None,
                    add_generation_prompt=answers,
                    tokenize=False,
                    **arguments,
                )
            except RecursionError:
                raise RenderFailed("they are nested too deeply") from None
            except (TemplateError, TypeError, ValueError) as error:
                raise RenderFailed(str(error)) from None
        return str(text)

    def _encode(self, text: str, *, special: bool) -> list[int]:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            half = f"U+{ord(text[error.start]):04X}"
            raise PromptRefused(f"the text has half a character, {half}, which no tokenizer can read") from None
        with self._lock:
            tokens: list[int] = self._tokenizer(text, add_special_tokens=special)["input_ids"]
        return tokens


class TextStream:
    """The text of one answer, token by token: whole characters only."""

    def __init__(self, tokenizer: Any, *, skip_special_tokens: bool = True) -> None:
        self._backend = tokenizer.backend_tokenizer
        self._skips = skip_special_tokens
        self._decoder = DecodeStream(skip_special_tokens=skip_special_tokens)
        self._tokens: list[int] = []
        """Those that the decoder has seen."""
        self._pending: list[int] = []
        """Those of them that have no text yet."""
        self._decoded = ""
        """The text of those that have."""

    def push(self, token: int) -> str:
        """Take the next token; return the text that is whole now (often empty)."""
        self._tokens.append(token)
        self._pending.append(token)
        try:
            piece = self._decoder.step(self._backend, token)
        except Exception:  # the library raises nothing more special: bytes that are no text, and more after them
            return self._begin_anew()
        if not piece:
            return ""
        self._pending.clear()
        self._decoded += piece
        return str(piece)

    def _begin_anew(self) -> str:
        """Take a new decoder for what follows; return the text of what the old one could not make sense of."""
        piece: str = self._backend.decode(self._pending, skip_special_tokens=self._skips)
        self._decoder = DecodeStream(skip_special_tokens=self._skips)
        self._tokens.clear()
        self._pending.clear()
        self._decoded = ""
        return piece

    def finish(self) -> str:
        """The text that was held back, at the end of the answer: bytes of an unfinished character become U+FFFD."""
        whole: str = self._backend.decode(self._tokens, skip_special_tokens=self._skips)
        return whole[len(self._decoded) :] if whole.startswith(self._decoded) else ""


class StopStrings:
    """A text as it comes, up to the first stop string in it: never a part of one is let through."""

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = tuple(stop)
        self._held = ""
        """What could be the beginning of a stop string."""
        self.found = False
        """Whether a stop string has appeared; nothing is let through after it."""

    def push(self, text: str) -> str:
        """Take the next text; return what is certain to come before any stop string."""
        if self.found:
            return ""
        if not self._stop:
            return text
        text = self._held + text
        places = [at for at in map(text.find, self._stop) if at >= 0]
        self.found = bool(places)
        end = min(places) if places else len(text) - self._beginning_at_end_of(text)
        self._held = "" if self.found else text[end:]
        return text[:end]

    def finish(self) -> str:
        """What was held back, when no text follows."""
        held, self._held = self._held, ""
        return held

    def _beginning_at_end_of(self, text: str) -> int:
        """How many of the last characters could be the beginning of a stop string."""
        longest = 0
        for stop in self._stop:
            for length in range(min(len(stop) - 1, len(text)), longest, -1):
                if text.endswith(stop[:length]):
                    longest = length
                    break
        return longest


class AnswerStream:
    """One answer, token by token -> its text, up to a stop string, and its calls.

    Stop strings are for the text alone: the marks and the JSON around a call's name and arguments are the template's,
    and nobody who asks for an answer has written them.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str] = (), calls: CallSyntax | None = None) -> None:
        # The marks of calls may be special tokens.
        self._decoded = TextStream(tokenizer, skip_special_tokens=calls is None)
        self._reader = None if calls is None else CallReader(calls)
        self._stop = StopStrings(stop)

    @property
    def stopped(self) -> bool:
        """Whether a stop string has appeared; nothing is accepted after it."""
        return self._stop.found

    @property
    def called(self) -> bool:
        """Whether there are calls, and the last one is whole."""
        return self._reader is not None and self._reader.called

    def push(self, token: int) -> tuple[str, tuple[CallPiece, ...]]:
        """Take the next token; return what of the text and of the calls is certain now, the text first."""
        return self._advance(self._decoded.push(token))

    def finish(self) -> tuple[str, tuple[CallPiece, ...]]:
        """What was held back, at the end of the answer."""
        text, calls = self._advance(self._decoded.finish())
        if self._reader is not None:
            text += self._stop.push(self._reader.finish())
        return text + self._stop.finish(), calls

    def _advance(self, decoded: str) -> tuple[str, tuple[CallPiece, ...]]:
        if self._reader is None:
            return self._stop.push(decoded), ()
        text, calls = "", []
        for piece in self._reader.push(decoded):
            if isinstance(piece, str):
                text += self._stop.push(piece)
            else:
                calls.append(piece)
        if self.stopped:
            return text, ()
        # No text follows a call: what could have become a stop string is none.
        return text + self._stop.finish() if calls else text, tuple(calls)
