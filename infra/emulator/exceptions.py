"""Errors as the resource manager and its providers answer them. The file service has its own (XML) shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class AzureError(Exception):
    """An answer of the shape {"error": {"code", "message", "target", "details", "additionalInfo"}}.

    `from_gateway` marks an error of the resource manager itself; real answers say so with x-ms-failure-cause: gateway.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        target: str | None = None,
        details: Sequence[AzureError] = (),
        additional_info: Sequence[Mapping[str, Any]] = (),
        headers: Mapping[str, str] | None = None,
        from_gateway: bool = False,
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.status = status
        self.code = code
        self.message = message
        self.target = target
        self.details = tuple(details)
        self.additional_info = tuple(additional_info)
        self.headers = dict(headers or {})
        self.from_gateway = from_gateway

    def as_dict(self) -> dict[str, Any]:
        """The object under "error"; members that say nothing are left out, in the order in which Azure writes them."""
        error: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.target is not None:
            error["target"] = self.target
        if self.details:
            error["details"] = [detail.as_dict() for detail in self.details]
        if self.additional_info:
            error["additionalInfo"] = [dict(info) for info in self.additional_info]
        return error


class NotEmulated(AzureError):
    """What Azure does and this stand-in does not: 501, never an invented success."""

    def __init__(self, what: str) -> None:
        super().__init__(501, "NotImplemented", f"The local stand-in for Azure does not do this: {what}.")
