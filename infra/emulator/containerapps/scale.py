"""How many replicas an app should have: KEDA's HTTP rule. Pure: knows no process and no clock."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_DEFAULT_CONCURRENT_REQUESTS = 10


@dataclass(frozen=True)
class Scale:
    """What a template says. `concurrent_requests` None: nothing but the minimum asks for replicas."""

    minimum: int
    maximum: int
    cooldown_seconds: int
    concurrent_requests: int | None

    @classmethod
    def of(cls, template: Mapping[str, Any], has_ingress: bool) -> Scale:
        """From a settled template. Without a rule an app with ingress has one of 10 concurrent requests."""
        scale = template["scale"]
        rules = [rule["http"] for rule in scale["rules"] or [] if rule.get("http")]
        concurrent: int | None = _DEFAULT_CONCURRENT_REQUESTS if has_ingress else None
        if rules and has_ingress:
            asked = (rules[0].get("metadata") or {}).get("concurrentRequests")
            concurrent = max(int(asked), 1) if asked else concurrent
        return cls(scale["minReplicas"] or 0, scale["maxReplicas"], scale["cooldownPeriod"] or 300, concurrent)

    def wanted(self, in_flight: int) -> int:
        """Replicas for so many requests at once."""
        by_rule = 0 if self.concurrent_requests is None else math.ceil(in_flight / self.concurrent_requests)
        return min(max(by_rule, self.minimum), self.maximum)
