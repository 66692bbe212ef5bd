"""One request to the file service: what it names, and how it is answered. Knows no operation."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote

from aiohttp import web
from multidict import CIMultiDict

from infra.emulator.files.exceptions import error, invalid_header
from infra.emulator.files.tree import Place

# The newest version that the stand-in was built for; it answers each request in the version it asks for.
NEWEST_VERSION = "2026-10-06"
_VERSION = re.compile(r"20\d\d-\d\d-\d\d", re.ASCII)
_SERVER = "Windows-Azure-File/1.0 Microsoft-HTTPAPI/2.0"


def parse_query(raw: str) -> dict[str, str]:
    """Query parameters, names in lower case. A plus sign is a plus sign, as in the service's signatures."""
    found: dict[str, str] = {}
    for part in raw.split("&"):
        if part:
            name, _, value = part.partition("=")
            name = unquote(name).lower()
            value = unquote(value)
            found[name] = f"{found[name]},{value}" if name in found else value
    return found


@dataclass(frozen=True)
class Grant:
    """What the caller may do beyond the request at hand. `permissions` None: everything.

    `whole_account`: a key or token, which is good for a copy source in the same account too.
    """

    permissions: str | None = None
    whole_account: bool = True

    def allows(self, permission: str) -> bool:
        return self.permissions is None or permission in self.permissions


@dataclass
class Context:
    """A request taken apart. `endpoint` is the account's address as the client wrote it, with its slash."""

    request: web.Request
    account: str
    share: str
    names: tuple[str, ...]
    query: Mapping[str, str]
    endpoint: str
    version: str = NEWEST_VERSION
    request_id: str = ""
    grant: Grant = field(default_factory=Grant)

    @property
    def place(self) -> Place:
        return Place(self.account, self.share, self.names)

    def header(self, name: str) -> str | None:
        """The header's value; one without a value counts as absent."""
        return self.request.headers.get(name) or None

    def flag(self, name: str) -> bool:
        """A header that says true or false; absent is false."""
        text = self.header(name)
        if text is None:
            return False
        if text.lower() not in ("true", "false"):
            raise invalid_header(name, text)
        return text.lower() == "true"

    def required(self, name: str) -> str:
        """The header's value. Raises StorageError 400 MissingRequiredHeader."""
        value = self.header(name)
        if value is None:
            raise error("MissingRequiredHeader", HeaderName=name)
        return value

    def answer(
        self,
        status: int,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        content_type: str | None = None,
    ) -> web.Response:
        """An answer with the headers that every answer has."""
        return web.Response(status=status, body=body, headers=self.headers(headers, content_type))

    def headers(self, headers: Mapping[str, str] | None = None, content_type: str | None = None) -> CIMultiDict[str]:
        """What every answer carries, and `headers`."""
        found = CIMultiDict[str](headers or {})
        if content_type is not None:
            found["Content-Type"] = content_type
        found["Server"] = _SERVER
        found["x-ms-request-id"] = self.request_id
        found["x-ms-version"] = self.version
        client_request_id = self.request.headers.get("x-ms-client-request-id")
        if client_request_id is not None:
            found["x-ms-client-request-id"] = client_request_id
        return found

    def xml(self, document: bytes, headers: Mapping[str, str] | None = None) -> web.Response:
        """An answer with an XML document."""
        return self.answer(200, headers, document, "application/xml")


def check_version(text: str) -> str:
    """The value of x-ms-version. Raises StorageError 400."""
    if not is_version(text):
        raise invalid_header("x-ms-version", text)
    return text


def is_version(text: str) -> bool:
    """Whether it has the form of a version."""
    return _VERSION.fullmatch(text) is not None


def new_request_id() -> str:
    """An id in the service's form."""
    return str(uuid.uuid4())
