"""What a caller signs with an account's key: the texts and their HMAC. Pure; knows no request and no rule.

Sources: "Authorize with Shared Key", "Create an account SAS", "Create a service SAS" of the storage services REST
reference; the order of headers is that of the service's culture-aware comparison, as the official clients sort.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterable, Mapping
from functools import lru_cache

_SIGNED_HEADERS = (
    "Content-Encoding",
    "Content-Language",
    "Content-Length",
    "Content-MD5",
    "Content-Type",
    "Date",
    "If-Modified-Since",
    "If-Match",
    "If-None-Match",
    "If-Unmodified-Since",
    "Range",
)
# Symbols before digits before letters; a hyphen counts only between names that are otherwise equal.
_WEIGHTS = {character: weight for weight, character in enumerate("!#$%&*.^_`|~+0123456789abcdefghijklmnopqrstuvwxyz")}
_ACCOUNT_FIELDS = ("sp", "ss", "srt", "st", "se", "sip", "spr", "sv")
_RESPONSE_FIELDS = ("rscc", "rscd", "rsce", "rscl", "rsct")


@lru_cache(maxsize=1024)
def _order(name: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    weights = tuple(_WEIGHTS[character] for character in name if character not in "-'")
    return weights, tuple(-position for position, character in enumerate(name) if character in "-'")


def sign(key: bytes, text: str) -> str:
    """The signature of a text: HMAC-SHA256, base64."""
    return base64.b64encode(hmac.digest(key, text.encode(), hashlib.sha256)).decode()


def shared_key_text(
    method: str,
    headers: Mapping[str, str],
    pairs: Iterable[tuple[str, str]],
    account: str,
    raw_path: str,
    query: Mapping[str, str],
) -> str:
    """The string to sign of a SharedKey authorization.

    `headers` is asked without regard to case, `pairs` are the same headers one by one; `raw_path` is as sent;
    `query` has decoded values and lower-case names.
    """
    lines = [method]
    for name in _SIGNED_HEADERS:
        value = headers.get(name, "")
        lines.append("" if value == "0" and name == "Content-Length" else value)
    extra: dict[str, str] = {}
    for name, value in pairs:
        name = name.lower()
        if name.startswith("x-ms-"):
            extra[name] = f"{extra[name]},{value}" if name in extra else value
    lines += [f"{name}:{extra[name]}" for name in sorted(extra, key=_order)]
    lines.append(f"/{account}{raw_path}")
    lines += [f"{name}:{query[name]}" for name in sorted(query)]
    return "\n".join(lines)


def account_sas_text(account: str, query: Mapping[str, str]) -> str:
    """The string to sign of an account SAS; since 2020-12-06 it ends with the encryption scope."""
    lines = [account, *(query.get(name, "") for name in _ACCOUNT_FIELDS)]
    if query.get("sv", "") >= "2020-12-06":
        lines.append(query.get("ses", ""))
    return "\n".join(lines) + "\n"


def service_sas_text(account: str, path: str, query: Mapping[str, str]) -> str:
    """The string to sign of a service SAS for a share or file; `path` is decoded: `share/directory/file`."""
    lines = [query.get(name, "") for name in ("sp", "st", "se")]
    lines.append(f"/file/{account}/{path}")
    lines += [query.get(name, "") for name in ("si", "sip", "spr", "sv")]
    lines += [query.get(name, "") for name in _RESPONSE_FIELDS]
    return "\n".join(lines)
