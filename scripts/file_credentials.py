"""Three ways to be let at Azure Files: the account's key, a shared access signature, a token of Microsoft Entra.

Sources: "Authorize with Shared Key", "Create an account SAS" and "Authorize with Microsoft Entra ID" of the storage
services REST reference. Knows no connection and no operation. None of them shows its secret.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import threading
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from scripts.errors import BadInput, Problem

_BEFORE_ITS_END_SECONDS = 300
"""How long before its end a token is asked for anew; whoever gives tokens decides then whether it is time."""


class FileCredential(Protocol):
    """What is added to each request."""

    query: str
    """What every address carries, those of a copy's or rename's source among them; empty for nothing."""

    if_unknown: str | None
    """What to do when the service does not take it for good, where that is not to sign in again."""

    def headers(
        self, what: str, method: str, path: str, query: Mapping[str, str], headers: Mapping[str, str], length: int
    ) -> dict[str, str]:
        """The headers that authorize a request. what says in a gerund what it does, for errors; path is encoded."""

    def refused(self) -> bool:
        """Told of a 401: whether the next request will be authorized otherwise."""


class AccountKey:
    """Shared Key: a signature of the whole request. Raises BadInput for text that cannot be a key."""

    query = ""

    def __init__(self, account: str, key: str) -> None:
        self._account = account
        self.if_unknown: str | None = (
            f"Correct AZURE_STORAGE_KEY if you set it: az storage account keys list --account-name {account}. "
            "If not, the key was renewed meanwhile: run the same command again."
        )
        try:
            self._key = base64.b64decode(key, validate=True)
        except (binascii.Error, ValueError):
            what = f"the key of the storage account {account} is not valid base64"
            next_step = f"Take one from: az storage account keys list --account-name {account}"
            raise BadInput([Problem(None, "AZURE_STORAGE_KEY", None, what, next_step)]) from None

    def headers(
        self, what: str, method: str, path: str, query: Mapping[str, str], headers: Mapping[str, str], length: int
    ) -> dict[str, str]:
        """A length of zero is signed as nothing; the date is x-ms-date's, so that of `Date` stays empty."""
        lines = [
            method,
            "",  # Content-Encoding
            "",  # Content-Language
            str(length or ""),
            headers.get("Content-MD5", ""),
            "",  # Content-Type
            "",  # Date
            "",  # If-Modified-Since
            "",  # If-Match
            "",  # If-None-Match
            "",  # If-Unmodified-Since
            "",  # Range: x-ms-range is used
        ]
        ours = {name.lower(): value for name, value in headers.items()}
        lines += [f"{name}:{ours[name]}" for name in sorted(ours, key=_order) if name.startswith("x-ms-")]
        lines.append(f"/{self._account}{path}")
        lines += [f"{name}:{query[name]}" for name in sorted(query)]
        signature = base64.b64encode(hmac.digest(self._key, "\n".join(lines).encode(), "sha256")).decode()
        return {"Authorization": f"SharedKey {self._account}:{signature}"}

    def refused(self) -> bool:
        return False


class AccessSignature:
    """A shared access signature (SAS) as a person has it. Raises BadInput for a text that cannot be one."""

    if_unknown: str | None = (
        "Make a new AZURE_STORAGE_SAS_TOKEN: this one has expired or not begun, was not copied whole, or its key was "
        "renewed."
    )

    def __init__(self, signature: str) -> None:
        self.query = signature.strip().lstrip("?")
        if "sig=" not in self.query or not self.query.isascii() or not self.query.isprintable() or " " in self.query:
            what = "this is not a shared access signature: it has no sig=, or characters that no address can carry"
            next_step = "Take it as it was made: sv=...&sig=..."
            raise BadInput([Problem(None, "AZURE_STORAGE_SAS_TOKEN", None, what, next_step)])

    def headers(
        self, what: str, method: str, path: str, query: Mapping[str, str], headers: Mapping[str, str], length: int
    ) -> dict[str, str]:
        return {}

    def refused(self) -> bool:
        return False


class EntraToken:
    """A bearer token, kept until shortly before its end.

    fetch gets what is about to be done, in a gerund, and gives a token and when it ends (seconds since 1970). The
    intent `backup` is what gives the roles of Storage File Data Privileged Contributor their rights.
    """

    query = ""
    if_unknown: str | None = None

    def __init__(self, fetch: Callable[[str], tuple[str, float]]) -> None:
        self._fetch = fetch
        self._token, self._ends = "", 0.0
        self._lock = threading.Lock()

    def headers(
        self, what: str, method: str, path: str, query: Mapping[str, str], headers: Mapping[str, str], length: int
    ) -> dict[str, str]:
        """Raises what `fetch` raises."""
        with self._lock:
            if time.time() > self._ends - _BEFORE_ITS_END_SECONDS:
                self._token, self._ends = self._fetch(what)
            return {"Authorization": f"Bearer {self._token}", "x-ms-file-request-intent": "backup"}

    def refused(self) -> bool:
        """The service may know of a token's end before this machine's clock does."""
        with self._lock:
            self._ends = 0.0
        return True


def _order(name: str) -> str:
    """The service sorts headers' names as words: hyphens do not count, and other symbols come before digits."""
    return name.replace("-", "").replace("_", "!")
