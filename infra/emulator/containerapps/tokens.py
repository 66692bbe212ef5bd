"""The tokens of getAuthtoken: they open the log streams of one app or of one environment, for an hour."""

from __future__ import annotations

import secrets
from datetime import datetime, timedelta, timezone
from typing import Any

from infra.emulator.resource_id import ResourceId

_LIFE = timedelta(hours=1)


class Tokens:
    """The valid tokens. They are not kept over a restart: a client asks for a new one for every stream."""

    def __init__(self) -> None:
        self._valid: dict[str, tuple[str, datetime]] = {}

    def issue(self, resource_id: ResourceId, document: dict[str, Any]) -> dict[str, Any]:
        """A new token as getAuthtoken answers it."""
        now = datetime.now(timezone.utc)
        self._valid = {token: entry for token, entry in self._valid.items() if entry[1] > now}
        token, expires = secrets.token_urlsafe(48), now + _LIFE
        self._valid[token] = (resource_id.key, expires)
        return {
            "location": document["location"],
            "properties": {"token": token, "expires": expires.strftime("%Y-%m-%dT%H:%M:%S.%f") + "0Z"},
            "id": document["id"],
            "name": document["name"],
            "type": f"{document['type']}/accesstoken",
        }

    def opens(self, authorization: str | None, resource_id: ResourceId) -> bool:
        """Whether the header `Authorization` holds a token for the resource."""
        scheme, _, token = (authorization or "").partition(" ")
        entry = self._valid.get(token.strip())
        return (
            scheme.lower() == "bearer"
            and entry is not None
            and entry[0] == resource_id.key
            and entry[1] > datetime.now(timezone.utc)
        )
