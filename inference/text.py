"""Messages -> prompt tokens, and tokens -> text as it can be shown.

Knows the tokenizer and its chat template; knows no model, no batch and no HTTP. No torch.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers.decoders import DecodeStream


class PromptRefused(Exception):
    """The messages cannot be made a prompt: no chat template, or the template itself refuses them."""


class PromptRenderer:
    """Renders chat messages with the model's own template. May be called from any thread."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        # A tokenizer keeps its padding and truncation as state, so two threads must not encode at the same moment.
        self._lock = threading.Lock()

    def render(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Token ids of the messages and of the opening of the assistant's answer. Raises PromptRefused."""
        from jinja2.exceptions import TemplateError

        if not self._tokenizer.chat_template:
            raise PromptRefused("the model has no chat template, so it cannot answer chat messages")
        with self._lock:
            try:
                text = self._tokenizer.apply_chat_template(
                    [dict(message) for message in messages], add_generation_prompt=True, tokenize=False
                )
            except (TemplateError, TypeError, ValueError) as error:
                raise PromptRefused(f"the model's chat template refuses these messages: {error}") from None
            # The template writes the opening special tokens itself.
            tokens: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return tokens


class TextStream:
    """The text of one answer, token by token: whole characters only, and never a part of a stop string."""

    def __init__(self, tokenizer: Any, stop: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._backend = tokenizer.backend_tokenizer
        self._decoder = DecodeStream(skip_special_tokens=True)
        self._tokens: list[int] = []
        self._decoded = ""
        self._sent = 0
        self._stop = tuple(stop)
        self.stopped = False
        """Whether a stop string has appeared; nothing is accepted after it."""

    def push(self, token: int) -> str:
        """Take the next token; return the text that may be shown now (often empty)."""
        self._tokens.append(token)
        piece = self._decoder.step(self._backend, token)
        return self._advance(piece) if piece else ""

    def finish(self) -> str:
        """The text that was held back, at the end of the answer: bytes of an unfinished character become U+FFFD."""
        if self.stopped:
            return ""
        whole = self._backend.decode(self._tokens, skip_special_tokens=True)
        rest = whole[len(self._decoded) :] if whole.startswith(self._decoded) else ""
        shown = self._advance(rest)
        if not self.stopped:
            shown += self._decoded[self._sent :]
            self._sent = len(self._decoded)
        return shown

    def _advance(self, piece: str) -> str:
        """Add decoded text; return what is certain not to belong to a stop string."""
        # A stop string that ends in the new piece begins at most its own length before it.
        longest = max((len(text) for text in self._stop), default=0)
        search_from = max(self._sent, len(self._decoded) - longest)
        self._decoded += piece
        found = [at for at in (self._decoded.find(text, search_from) for text in self._stop) if at >= 0]
        if found:
            self.stopped = True
            end = min(found)
        else:
            end = len(self._decoded) - self._held_back()
        shown = self._decoded[self._sent : end]
        self._sent = max(self._sent, end)
        return shown

    def _held_back(self) -> int:
        """How many last characters could be the beginning of a stop string."""
        unsent = self._decoded[self._sent :]
        longest = 0
        for text in self._stop:
            for length in range(min(len(text) - 1, len(unsent)), longest, -1):
                if unsent.endswith(text[:length]):
                    longest = length
                    break
        return longest
