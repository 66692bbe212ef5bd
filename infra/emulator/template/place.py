"""Where in a template something stands, and errors that say so."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from infra.emulator.template.errors import TemplateError, invalid_template
from infra.emulator.template.json_text import Path, Positions, path_text
from infra.emulator.template.values import Value

_SHORTEST_SECRET = 4
"""Characters from which on a secret is taken out of messages; shorter ones would take half the message with them."""


@dataclass(frozen=True)
class Place:
    """A path in a text, with the positions of that text. Messages of its errors show none of the secrets."""

    positions: Positions
    path: Path
    secrets: tuple[str, ...] = field(default=(), repr=False)

    def at(self, *steps: str | int) -> Place:
        """A place further in."""
        return replace(self, path=(*self.path, *steps))

    def hiding(self, values: Iterable[Value]) -> Place:
        """The same place; its errors also hide every string within the values."""
        texts = {text for value in values for text in _texts(value) if len(text) >= _SHORTEST_SECRET}
        # Longer ones first, so that no rest of one stays behind when another is a part of it.
        return replace(self, secrets=tuple(sorted({*self.secrets, *texts}, key=len, reverse=True)))

    @property
    def line(self) -> int:
        return self.positions.find(self.path)[0]

    @property
    def column(self) -> int:
        return self.positions.find(self.path)[1]

    @property
    def where(self) -> str:
        return f"at line '{self.line}' and column '{self.column}'"

    def redacted(self, message: str) -> str:
        for secret in self.secrets:
            message = message.replace(secret, "*******")
        return message

    def invalid(self, reason: str) -> TemplateError:
        """An InvalidTemplate error of this place, in the frame of a failed validation."""
        reason = self.redacted(reason)
        return invalid_template(reason, line=self.line, column=self.column, path=path_text(self.path))

    def unprocessed(self, message: str) -> TemplateError:
        """An InvalidTemplate error of this place whose message is complete."""
        message = self.redacted(message)
        return TemplateError("InvalidTemplate", message, line=self.line, column=self.column, path=path_text(self.path))


def _texts(value: Value) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)
