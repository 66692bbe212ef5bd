"""Quotas of Microsoft.App: their names, their limits, and what one replica takes of them.

Names: learn.microsoft.com/azure/container-apps/quotas. Limits of counts and cores: recorded answers of .../usages; one
serverless GPU of each kind per environment is what an environment begins with. Dedicated A100s are granted on request,
to the subscription: what is granted here is an assumption.
"""

from __future__ import annotations

from types import MappingProxyType

from infra.emulator.containerapps.profiles import ProfileType

ENVIRONMENTS, DEDICATED_GPUS = "ManagedEnvironmentCount", "SubscriptionNCA100Gpus"
OF_A_REGION = MappingProxyType(
    {ENVIRONMENTS: ("Managed Environment Count", 40), DEDICATED_GPUS: ("Subscription NCA100 Gpus", 8)}
)
"""Name -> words and limit."""
OF_AN_ENVIRONMENT = MappingProxyType(
    {
        "ManagedEnvironmentGeneralPurposeCores": ("Managed Environment General Purpose Cores", 100),
        "ManagedEnvironmentMemoryOptimizedCores": ("Managed Environment Memory Optimized Cores", 50),
        "ManagedEnvironmentConsumptionCores": ("Managed Environment Consumption Cores", 100),
        "ManagedEnvironmentConsumptionNCA100Gpus": ("Managed Environment Consumption NCA100 Gpus", 1),
        "ManagedEnvironmentConsumptionT4Gpus": ("Managed Environment Consumption T4 Gpus", 1),
    }
)
"""Name -> words and limit."""
_GPUS = MappingProxyType(
    {
        "Consumption-GPU-NC8as-T4": "ManagedEnvironmentConsumptionT4Gpus",
        "Consumption-GPU-NC24-A100": "ManagedEnvironmentConsumptionNCA100Gpus",
    }
)


def limit(quota: str) -> int:
    """The limit of a quota."""
    return (OF_AN_ENVIRONMENT.get(quota) or OF_A_REGION[quota])[1]


def of_replica(kind: ProfileType, cores: float) -> dict[str, float]:
    """What a replica with so many cores takes, by the name of the quota. It has one GPU at most, and never a part."""
    if kind.gpus and not kind.is_consumption:
        return {DEDICATED_GPUS: 1}
    name = "MemoryOptimized" if kind.category == "MemoryOptimized" else "GeneralPurpose"
    taken = {f"ManagedEnvironment{'Consumption' if kind.is_consumption else name}Cores": cores}
    return taken | ({_GPUS[kind.name]: 1} if kind.gpus else {})
