"""How an environment's app is: as Azure sees it and, when a replica runs, as the app sees itself.

Asks only; it does not wake an app that is scaled to zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from scripts import release as releases
from scripts.deployment import Outputs
from scripts.endpoint import Readiness
from scripts.errors import CloudError
from scripts.publish import config_of
from scripts.replica import RevisionState
from scripts.session import Session


@dataclass(frozen=True)
class Status:
    """release is the one that `current` names; readiness is what /ready says, None without a replica or an answer."""

    outputs: Outputs
    release: str | None
    revision: RevisionState
    readiness: Readiness | None

    def to_json(self) -> dict[str, Any]:
        """All of it, for a machine."""
        ready = self.readiness
        return {
            "outputs": config_of(self.outputs),
            "release": self.release,
            "revision": {
                "name": self.revision.name,
                "provisioning_state": self.revision.provisioning_state,
                "running_state": self.revision.running_state,
                "health_state": self.revision.health_state,
                "details": self.revision.details,
                "replicas": [
                    {"name": replica.name, "running_state": replica.running_state, "restarts": replica.restarts}
                    for replica in self.revision.replicas
                ],
            },
            "app": None
            if ready is None
            else {
                "status": ready.status,
                "release": ready.release,
                "models": list(ready.models),
                "phase": ready.phase,
                "error": ready.error,
                "ledger": dict(ready.ledger),
            },
        }

    def __str__(self) -> str:
        rows = {
            "endpoint": self.outputs.aca_app_endpoint,
            "app": self.outputs.aca_app_name,
            "release": self.release or "none yet",
            "revision": str(self.revision),
            "replicas": self._replicas(),
        }
        if self.readiness is not None:
            rows["serves"] = f"{self.readiness.release or 'no release'}, {self.readiness.status}"
            if self.readiness.error:
                rows["error"] = self.readiness.error
            if self.readiness.models:
                rows["models"] = ", ".join(self.readiness.models)
            if self.readiness.ledger:
                rows["last start"] = ", ".join(f"{name} {value}" for name, value in self.readiness.ledger.items())
        width = max(map(len, rows))
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows.items())

    def _replicas(self) -> str:
        if self.revision.is_asleep:  # what has ended stays listed for a while
            return "none: it starts with the next request"
        return ", ".join(
            f"{replica.name} {replica.running_state}" + f", {replica.restarts} restarts" * bool(replica.restarts)
            for replica in self.revision.replicas
        )


def of(session: Session) -> Status:
    """The status now. Raises CloudError when Azure does not tell; an app that does not answer is no error."""
    current = releases.read_current_id(session.share)
    state = session.app.state()
    readiness = None
    if not state.is_asleep:
        try:
            readiness = session.endpoint.ready(answer_seconds=10)
        except CloudError as error:
            session.say(f"the app does not report its state: {error.message}")
    return Status(session.outputs, current, state, readiness)
