"""Where in a template something stands, and errors that say so."""

from __future__ import annotations

from dataclasses import dataclass, replace

from infra.emulator.template.errors import TemplateError, invalid_template
from infra.emulator.template.json_text import Path, Positions, path_text


@dataclass(frozen=True)
class Place:
    """A path in a text, with the positions of that text."""

    positions: Positions
    path: Path

    def at(self, *steps: str | int) -> Place:
        """A place further in."""
        return replace(self, path=(*self.path, *steps))

    @property
    def line(self) -> int:
        return self.positions.find(self.path)[0]

    @property
    def column(self) -> int:
        return self.positions.find(self.path)[1]

    @property
    def where(self) -> str:
        return f"at line '{self.line}' and column '{self.column}'"

    def invalid(self, reason: str) -> TemplateError:
        """An InvalidTemplate error of this place, in the frame of a failed validation."""
        return invalid_template(reason, line=self.line, column=self.column, path=path_text(self.path))

    def unprocessed(self, message: str) -> TemplateError:
        """An InvalidTemplate error of this place whose message is complete."""
        return TemplateError("InvalidTemplate", message, line=self.line, column=self.column, path=path_text(self.path))
