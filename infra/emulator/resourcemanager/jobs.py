"""Work of the resource manager itself that a client polls under .../operationresults/ID until it has an answer.

A job is stored with what it was asked, so that one that was under way when the stand-in was killed is begun again.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from infra.emulator.exceptions import AzureError
from infra.emulator.faults import Faults
from infra.emulator.operations import Operations
from infra.emulator.provider import Answer, Call, Principal
from infra.emulator.store import Store

log = logging.getLogger(__name__)

# A whole second is the least that Retry-After can say: 0 counts as absent, and clients then wait half a minute.
RETRY_AFTER = {"Retry-After": "1"}
_KEPT_SECONDS = 3600.0

Request = dict[str, Any]
Worker = Callable[[Request], Awaitable[Answer]]


class Jobs:
    """All jobs. `add` names a kind and the function that does the work and returns what the last poll answers."""

    def __init__(self, store: Store, operations: Operations, faults: Faults) -> None:
        self._store, self._operations, self._faults = store, operations, faults
        self._workers: dict[str, Worker] = {}
        self._going_on: dict[str, str] = {}

    def add(self, kind: str, worker: Worker) -> None:
        """`worker` gets the request as it was given to begin(), and must be able to begin it a second time."""
        self._workers[kind] = worker

    def begin(self, kind: str, call: Call, scope: str, request: Request) -> Answer:
        """Starts the work: 202 with the address to poll. `scope` is what stands before /operationresults."""
        job = str(uuid.uuid4())
        address = f"{call.base_url}{scope}/operationresults/{job}?api-version={call.api_version}"
        document = {"kind": kind, "scope": scope, "request": request, "time_seconds": time.time(), "address": address}
        self._store.put("job", job, document)
        self._start(job, document)
        return Answer(202, headers={"Location": address, **RETRY_AFTER})

    def poll(self, job: str) -> Answer:
        """202 with the same address while it goes on, then what the worker returned."""
        document = self._store.get("job", job)
        if document is None:
            raise AzureError(404, "NotFound", f"The operation result '{job}' could not be found.", from_gateway=True)
        if "status" in document:
            return Answer(document["status"], document["body"])
        return Answer(202, headers={"Location": document["address"], **RETRY_AFTER})

    def resume(self) -> None:
        """Begins again what had no answer when the stand-in ended, and forgets what is long over."""
        for job, document in self._store.items("job"):
            if "status" not in document:
                self._start(job, document)
            elif time.time() - document["time_seconds"] > _KEPT_SECONDS:
                self._store.delete("job", job)

    async def suspend(self) -> None:
        """Stops what goes on; the next start begins it again."""
        for operation_id in list(self._going_on.values()):
            await self._operations.cancel(operation_id)

    def _start(self, job: str, document: dict[str, Any]) -> None:
        operation = self._operations.begin(document["kind"], document["scope"], self._work(job, document))
        self._going_on[job] = operation.id

    async def _work(self, job: str, document: dict[str, Any]) -> None:
        try:
            await self._faults.hinder(f"{document['scope']}/operationresults/{document['kind']}")
            answer = await self._workers[document["kind"]](document["request"])
        except AzureError as failure:
            answer = Answer(failure.status, {"error": failure.as_dict()})
        except Exception:
            # A defect of the stand-in: the poll must end, and the log must say where.
            log.exception("%s %s", document["kind"], document["scope"])
            message = "The stand-in failed; see its log."
            answer = Answer(500, {"error": {"code": "InternalServerError", "message": message}})
        self._going_on.pop(job, None)
        # What was asked is not needed any more, and may hold the values of secure parameters.
        self._store.put("job", job, document | {"request": None, "status": answer.status, "body": answer.body})


def as_document(call: Call) -> dict[str, Any]:
    """A call as JSON, to be stored with work that goes on."""
    return {
        "principal": vars(call.principal),
        "api_version": call.api_version,
        "base_url": call.base_url,
        "query": dict(call.query),
    }


def from_document(document: dict[str, Any]) -> Call:
    """The reverse of as_document()."""
    principal = Principal(**document["principal"])
    return Call(principal, document["api_version"], document["base_url"], document["query"])
