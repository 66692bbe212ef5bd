"""Lists in pages: `$top` (or `$maxpagesize`) is a page's size, `nextLink` the address of the next one.

A page's token tells where it begins in the list; to clients it is opaque, as Azure's. A list asked for without a size
is one page.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import replace

from yarl import URL

from infra.emulator.exceptions import AzureError
from infra.emulator.provider import Answer

_SIZES = ("$top", "$maxpagesize")


def page(answer: Answer, address: URL) -> Answer:
    """The part of a list that is asked for at `address`. Raises AzureError for a token that never was one."""
    query = {name.lower(): value for name, value in address.query.items()}
    size = next((query[name] for name in _SIZES if name in query), "")
    body = answer.body
    if not size.isdigit() or int(size) == 0 or not isinstance(body, dict) or not isinstance(body.get("value"), list):
        return answer
    begin = _position(query.get("$skiptoken", ""))
    end = begin + int(size)
    part = body | {"value": body["value"][begin:end]}
    if end < len(body["value"]):
        token = base64.urlsafe_b64encode(str(end).encode()).decode()
        part["nextLink"] = str(address.update_query({"$skiptoken": token}))
    return replace(answer, body=part)


def _position(token: str) -> int:
    if not token:
        return 0
    try:
        return abs(int(base64.b64decode(token, b"-_", validate=True)))
    except (ValueError, binascii.Error):
        message = f"The provided skip token '{token}' is invalid."
        raise AzureError(400, "InvalidSkipToken", message, from_gateway=True) from None
