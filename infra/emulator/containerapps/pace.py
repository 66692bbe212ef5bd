"""How much faster than Azure an app lives here, and which waits stay as long as they are."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Pace:
    """Waits that only cost time are divided by `factor`: a probe's initial delay and period, the back-off of a crash
    loop, the time that an old revision is kept after a new one is ready.

    What a process is given is not: a probe's timeout, the grace period, and how long start-up or liveness may fail
    (failureThreshold x periodSeconds) before the container is restarted, since this machine is no faster than Azure's.
    Nor is the cooldown before scaling down: an app that is asleep early makes whoever comes next wait for its start.
    """

    factor: float = 10.0
    idle_seconds: float = 240.0
    """A request on which nothing moves for so long is ended (learn.microsoft.com: container-apps/ingress-overview)."""
    hold_seconds: float = 240.0
    """How long a request waits for the first replica of an app that is scaled to zero."""

    def quick(self, azure_seconds: float) -> float:
        """A wait here that takes `azure_seconds` in Azure."""
        return azure_seconds / self.factor
