"""Workload profiles: what each type offers, where it is offered, and what an environment or an app may ask of it.

Sizes and names: recorded answers of availableManagedEnvironmentsWorkloadProfileTypes; the serverless GPU types and
their regions: learn.microsoft.com/azure/container-apps/gpu-serverless-overview and workload-profiles-overview.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from infra.emulator.containerapps.locations import region_name
from infra.emulator.exceptions import AzureError


@dataclass(frozen=True)
class ProfileType:
    """One size of machine (dedicated), or the most that a replica may have (consumption)."""

    name: str
    category: str
    cores: int
    memory_gib: int
    gpus: int = 0

    @property
    def is_consumption(self) -> bool:
        """Billed by replica: there are no nodes to count."""
        return self.name.startswith("Consumption")

    @property
    def display_name(self) -> str:
        """As the list of types shows it."""
        return self.name if self.is_consumption else f"Dedicated-{self.name}"

    def offered_in(self, location: str) -> bool:
        """Whether the region has it."""
        regions = _REGIONS.get(self.name)
        return regions is None or region_name(location) in regions


_GENERAL = [ProfileType(f"D{cores}", "GeneralPurpose", cores, 4 * cores) for cores in (4, 8, 16, 32)]
_MEMORY = [ProfileType(f"E{cores}", "MemoryOptimized", cores, 8 * cores) for cores in (4, 8, 16, 32)]
_OTHER = [
    ProfileType("Consumption", "Consumption", 4, 8),
    ProfileType("NC24-A100", "GPU-NC-A100", 24, 220, 1),
    ProfileType("NC48-A100", "GPU-NC-A100", 48, 440, 2),
    ProfileType("NC96-A100", "GPU-NC-A100", 96, 880, 4),
    # How the list of types shows the category of these two is not recorded.
    ProfileType("Consumption-GPU-NC8as-T4", "Consumption-GPU-NC8as-T4", 8, 56, 1),
    ProfileType("Consumption-GPU-NC24-A100", "Consumption-GPU-NC24-A100", 24, 220, 1),
]
PROFILE_TYPES = MappingProxyType({profile.name: profile for profile in (*_GENERAL, *_MEMORY, *_OTHER)})

_A100_REGIONS = frozenset(
    ("australiaeast", "brazilsouth", "canadacentral", "eastus", "italynorth", "swedencentral", "westus", "westus3")
)
_T4_REGIONS = _A100_REGIONS | {
    "centralindia",
    "francecentral",
    "japaneast",
    "northcentralus",
    "southcentralus",
    "southeastasia",
    "southindia",
    "westeurope",
    "westus2",
}
_REGIONS: Mapping[str, frozenset[str]] = MappingProxyType(
    {"Consumption-GPU-NC24-A100": _A100_REGIONS, "Consumption-GPU-NC8as-T4": _T4_REGIONS}
)
_NAME_LENGTH = 15
# An environment without profiles gives a replica at most this (the older, consumption-only kind).
_OLD_CONSUMPTION_CORES = 2.0


def check_environment(profiles: Sequence[Mapping[str, Any]], location: str) -> list[dict[str, Any]]:
    """The profiles of an environment as the service keeps them. Raises AzureError for what it refuses."""
    kept: list[dict[str, Any]] = []
    spelling = {name.lower(): name for name in PROFILE_TYPES}
    for profile in profiles:
        asked = profile.get("workloadProfileType") or ""
        kind = PROFILE_TYPES.get(spelling.get(asked.lower(), ""))
        if kind is None or not kind.offered_in(location):
            raise AzureError(
                400,
                "WorkloadProfileInvalidType",
                f"Workload profile type '{asked}' is not supported in location '{location}'.",
            )
        name = profile.get("name") or kind.name
        if len(name) > _NAME_LENGTH and not kind.is_consumption:
            raise AzureError(
                400,
                "WorkloadProfileInvalidNameTooLong",
                f"Workload profile name '{name}' is too long: it may have {_NAME_LENGTH} characters.",
            )
        if any(name.lower() == other["name"].lower() for other in kept):
            raise AzureError(400, "WorkloadProfileDuplicateName", f"Workload profile name '{name}' is given twice.")
        shown: dict[str, Any] = {
            "workloadProfileType": kind.name,
            "name": name,
            "enableFips": bool(profile.get("enableFips")),
        }
        for count in ("minimumCount", "maximumCount"):
            if profile.get(count) is None:
                continue
            if kind.is_consumption:
                raise AzureError(
                    400,
                    "WorkloadProfilePropertyNotSupported",
                    f"Workload Profile property '{count[0].upper()}{count[1:]}' is not supported for"
                    f" {kind.name.replace('-', '_')}",
                )
            shown[count] = profile[count]
        kept.append(shown)
    return kept


def check_app(
    environment: Mapping[str, Any], profile_name: str | None, containers: Sequence[Mapping[str, Any]]
) -> str | None:
    """The name of the profile that an app runs on. Raises AzureError when it is not there or too small for the app.

    `environment` is the properties of the environment; `containers` are those of the template.
    """
    profiles = environment["workloadProfiles"]
    if not profiles:
        if profile_name and profile_name.lower() != "consumption":
            raise _not_found(profile_name)
        _check_pairs(containers, _OLD_CONSUMPTION_CORES)
        return None
    wanted = profile_name or "Consumption"
    found = next((profile for profile in profiles if profile["name"].lower() == wanted.lower()), None)
    if found is None:
        raise _not_found(wanted)
    check_total(PROFILE_TYPES[found["workloadProfileType"]], containers)
    return str(found["name"])


def check_total(kind: ProfileType, containers: Sequence[Mapping[str, Any]]) -> None:
    """Raises AzureError when a replica of these containers does not fit on a profile of that type."""
    if kind.name == "Consumption":
        _check_pairs(containers, float(kind.cores))
        return
    cores, memory = _totals(containers)
    if cores > kind.cores or memory > kind.memory_gib:
        # The code is known for the consumption profile; how the service words this case is not.
        raise AzureError(
            400,
            "ContainerAppInvalidResourceTotal",
            f"The total requested CPU and memory resources for this application (CPU: {cores:g}, memory: {memory:g}) is"
            f" invalid. Workload profile type {kind.name} gives a replica at most [cpu: {kind.cores}, memory:"
            f" {kind.memory_gib}Gi].",
        )


def memory_gib(memory: str) -> float:
    """`1.5Gi` -> 1.5. Raises ValueError for another unit, or more than two decimals."""
    number = memory.removesuffix("Gi")
    if number == memory or len(number.partition(".")[2]) > 2:
        raise ValueError(memory)
    return float(number)


def _totals(containers: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    resources = [container.get("resources") or {} for container in containers]
    cores = sum(float(each.get("cpu", 0.5)) for each in resources)
    return cores, sum(memory_gib(each.get("memory", "1Gi")) for each in resources)


def _check_pairs(containers: Sequence[Mapping[str, Any]], most_cores: float) -> None:
    cores, memory = _totals(containers)
    quarters = cores * 4
    if cores <= most_cores and quarters >= 1 and quarters == int(quarters) and memory == 2 * cores:
        return
    pairs = [(quarter / 4, quarter / 2) for quarter in range(1, int(most_cores * 4) + 1)]
    raise AzureError(
        400,
        "ContainerAppInvalidResourceTotal",
        f"The total requested CPU and memory resources for this application (CPU: {cores:g}, memory: {memory}) is"
        " invalid. Total CPU and memory for all containers defined in a Container App must add up to one of the"
        " following CPU - Memory combinations: " + "; ".join(f"[cpu: {cpu}, memory: {size}Gi]" for cpu, size in pairs),
    )


def _not_found(name: str) -> AzureError:
    return AzureError(
        400, "WorkloadProfileNotFound", f"Workload profile '{name}' was not found in the managed environment."
    )
