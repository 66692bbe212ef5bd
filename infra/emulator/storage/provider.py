"""The provider Microsoft.Storage: its types, and what stands directly under the subscription."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from infra.emulator.exceptions import NotEmulated
from infra.emulator.provider import Answer, Call, Cloud, Provider, ResourceType
from infra.emulator.storage.accounts import StorageAccounts
from infra.emulator.storage.shares import FileServices, Shares


class StorageProvider(Provider):
    """Also tells the file service which accounts there are and which keys open them."""

    namespace = "Microsoft.Storage"

    def __init__(self, cloud: Cloud) -> None:
        self._accounts = StorageAccounts(cloud)
        types: tuple[ResourceType, ...] = (self._accounts, FileServices(cloud), Shares(cloud))
        self.types: Mapping[str, ResourceType] = {one.type.lower(): one for one in types}

    async def start(self) -> None:
        """What was being created when the stand-in ended is there."""
        self._accounts.finish_all()

    async def subscription_call(self, call: Call, method: str, rest: tuple[str, ...], body: Any) -> Answer:
        """checkNameAvailability, and the address under which the creation of an account is polled."""
        match method, [segment.lower() for segment in rest]:
            case "POST", ["checknameavailability"]:
                return Answer(200, self._accounts.availability(body))
            case "GET", ["locations", location, "asyncoperations", operation_id]:
                return self._accounts.poll(call, location, operation_id)
        raise NotEmulated(f"{method} {self.namespace}/{'/'.join(rest)}")

    def keys(self, account: str) -> list[bytes] | None:
        """The keys of an account, or None when there is no such account."""
        return self._accounts.keys(account)

    def allows_shared_key(self, account: str) -> bool:
        """Whether the account accepts its keys."""
        return self._accounts.allows_shared_key(account)
