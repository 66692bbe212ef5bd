"""The errors of template evaluation, in the resource manager's words. Knows no HTTP: a caller chooses the status."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any


class ExpressionError(Exception):
    """An expression that cannot be parsed or evaluated; whoever knows its place wraps it into a TemplateError."""


class TemplateError(Exception):
    """A template, or a value given to it, that the resource manager would refuse.

    `line` and `column` are counted from 1 in the text that was sent, 0 where the text is not known; `path` is the
    JSON path of the place (`properties.template.parameters.name`). `details` holds the further problems of the same
    template, or, for a failed evaluation of outputs, the problem of each output.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        target: str | None = None,
        line: int = 0,
        column: int = 0,
        path: str = "",
        details: Sequence[TemplateError] = (),
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.target = target
        self.line = line
        self.column = column
        self.path = path
        self.details = tuple(details)

    def body(self) -> dict[str, Any]:
        """The value of `error` in the resource manager's answer, members in its order."""
        body: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.target is not None:
            body["target"] = self.target
        if self.details:
            body["details"] = [detail.body() for detail in self.details]
        if self.code == "InvalidTemplate":
            info = {"lineNumber": self.line, "linePosition": self.column, "path": self.path}
            body["additionalInfo"] = [{"type": "TemplateViolation", "info": info}]
        return body


class NotSupported(TemplateError):
    """Something that Azure does and this evaluator does not; the message says what."""

    def __init__(self, message: str, *, target: str | None = None) -> None:
        super().__init__("NotSupported", message, target=target)


class ShortCircuited(TemplateError):
    """A nested template that cannot be laid out yet, because a name, condition or count needs a deployed resource."""

    def __init__(self, message: str, *, target: str | None = None) -> None:
        super().__init__("NestedDeploymentShortCircuited", message, target=target)


def invalid_template(reason: str, *, line: int = 0, column: int = 0, path: str = "") -> TemplateError:
    """An InvalidTemplate error with the resource manager's frame around the reason."""
    message = f"Deployment template validation failed: '{reason}'."
    return TemplateError("InvalidTemplate", message, line=line, column=column, path=path)


def combined(problems: Sequence[TemplateError]) -> TemplateError:
    """One error for all problems of a template: the first one, with every one of them in its details."""
    first = problems[0]
    if len(problems) == 1:
        return first
    return TemplateError(
        first.code,
        first.message,
        target=first.target,
        line=first.line,
        column=first.column,
        path=first.path,
        details=problems,
    )


@contextmanager
def bounded() -> Iterator[None]:
    """Turn a Python stack that ran out into the same error as a template that is nested too deeply."""
    try:
        yield
    except RecursionError:
        raise invalid_template("The template is nested too deeply.") from None
