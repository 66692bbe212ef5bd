"""Work that goes on after its request was answered (202, 201): its state, kept until a client has polled it.

Knows no HTTP and no resource type: a provider says what is to be done and under which address it is polled.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Coroutine
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from typing import Any

from infra.emulator.exceptions import AzureError
from infra.emulator.store import Store

log = logging.getLogger(__name__)
IN_PROGRESS, SUCCEEDED, FAILED, CANCELED = "InProgress", "Succeeded", "Failed", "Canceled"


def timestamp() -> str:
    """Now in UTC with seven digits of a second, as Azure writes times, without a zone."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%f") + "0"


@dataclass(frozen=True)
class Operation:
    """One piece of asynchronous work on one resource. `error` is what stands under "error" when it failed."""

    id: str
    kind: str
    resource_id: str
    status: str
    started: str
    ended: str | None = None
    error: dict[str, Any] | None = None


class Operations:
    """All operations of the stand-in. A restart ends those that were running: their providers begin them anew."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def begin(self, kind: str, resource_id: str, work: Coroutine[Any, Any, None]) -> Operation:
        """Starts `work`; an AzureError that it raises becomes the operation's error.

        `kind` is the provider's word in the polling address, for example containerappOperationStatuses.
        """
        operation = Operation(str(uuid.uuid4()), kind, resource_id, IN_PROGRESS, timestamp())
        self._save(operation)
        self._tasks[operation.id] = asyncio.create_task(self._run(operation, work))
        return operation

    def get(self, operation_id: str) -> Operation | None:
        """The operation as it stands now."""
        document = self._store.get("operation", operation_id)
        return None if document is None else Operation(**document)

    async def wait(self, operation: Operation) -> Operation:
        """The operation once it has ended. Cancelling the waiting does not cancel the work."""
        task = self._tasks.get(operation.id)
        if task is not None:
            await asyncio.wait([task])
        ended = self.get(operation.id)
        assert ended is not None
        return ended

    async def cancel(self, operation_id: str) -> None:
        """Stops the work at its next await; the operation ends Canceled."""
        task = self._tasks.get(operation_id)
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def close(self) -> None:
        """Cancels what is running, without recording it as cancelled: the next start takes it up again."""
        for task in list(self._tasks.values()):
            task.cancel("closing")
        if self._tasks:
            await asyncio.wait(list(self._tasks.values()))

    async def _run(self, operation: Operation, work: Coroutine[Any, Any, None]) -> None:
        status, error = SUCCEEDED, None
        try:
            await work
        except AzureError as failure:
            status, error = FAILED, failure.as_dict()
        except asyncio.CancelledError as cancelled:
            if cancelled.args == ("closing",):
                raise
            status = CANCELED
        except Exception:
            # A defect of the stand-in: the client must see a failed operation, and the log must say where.
            log.exception("%s %s", operation.kind, operation.resource_id)
            status, error = FAILED, {"code": "InternalServerError", "message": "The stand-in failed; see its log."}
        finally:
            self._tasks.pop(operation.id, None)
        document = asdict(operation) | {"status": status, "ended": timestamp(), "error": error}
        self._store.put("operation", operation.id, document)

    def _save(self, operation: Operation) -> None:
        self._store.put("operation", operation.id, asdict(operation))
