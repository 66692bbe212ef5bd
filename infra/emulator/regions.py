"""Azure's regions: names, display names, the area in front of them. Offers every resource type in every region."""

from __future__ import annotations

from infra.emulator.exceptions import AzureError

_AREAS = {
    "US": (
        "East US, East US 2, West US, West US 2, West US 3, Central US, North Central US, "
        "South Central US, West Central US, US DoD Central, US DoD East, US Gov Arizona, US Gov Texas, "
        "US Gov Virginia"
    ),
    "Canada": "Canada Central, Canada East",
    "Mexico": "Mexico Central",
    "South America": "Brazil South, Brazil Southeast, Chile Central",
    "Europe": (
        "Austria East, Belgium Central, France Central, France South, Germany North, "
        "Germany West Central, Italy North, North Europe, Norway East, Norway West, Poland Central, "
        "Spain Central, Sweden Central, Sweden South, Switzerland North, Switzerland West, UK South, "
        "UK West, West Europe"
    ),
    "Africa": "South Africa North, South Africa West",
    "Middle East": "Israel Central, Qatar Central, UAE Central, UAE North",
    "Asia Pacific": (
        "Australia Central, Australia East, Australia Southeast, Central India, China East 2, "
        "China North 3, East Asia, Indonesia Central, Japan East, Japan West, Jio India Central, "
        "Jio India West, Korea Central, Korea South, Malaysia West, New Zealand North, South India, "
        "Southeast Asia, West India"
    ),
}
REGIONS: tuple[tuple[str, str, str], ...] = tuple(
    (display.lower().replace(" ", ""), display, area)
    for area, displays in _AREAS.items()
    for display in displays.split(", ")
)
"""Name, display name, area."""
_NAMES = frozenset(name for name, _, _ in REGIONS)


def normalized(location: str) -> str:
    """`West US 2` -> `westus2`: how locations are compared."""
    return location.replace(" ", "").lower()


def exists(location: str) -> bool:
    """Whether there is such a region, written either way."""
    return normalized(location) in _NAMES


def check_for_group(location: object) -> str:
    """The location of a resource group as it was given. Raises AzureError for none and for an unknown one."""
    if not isinstance(location, str) or not location:
        raise AzureError(
            400, "LocationRequired", "The location property is required for this definition.", from_gateway=True
        )
    if not exists(location):
        raise AzureError(
            400,
            "LocationNotAvailableForResourceGroup",
            f"The provided location '{location}' is not available for resource group."
            f" List of available regions is '{','.join(name for name, _, _ in REGIONS)}'.",
            from_gateway=True,
        )
    return location


def check_for_type(location: object, resource_type: str) -> str:
    """The location of a resource as it was given. Raises AzureError for none and for an unknown one."""
    if not isinstance(location, str) or not location:
        raise AzureError(
            400, "LocationRequired", "The location property is required for this definition.", from_gateway=True
        )
    if not exists(location):
        raise AzureError(
            400,
            "LocationNotAvailableForResourceType",
            f"The provided location '{location}' is not available for resource type '{resource_type}'. List of"
            f" available regions for the resource type is '{','.join(name for name, _, _ in REGIONS)}'.",
            from_gateway=True,
        )
    return location
