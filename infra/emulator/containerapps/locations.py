"""How Microsoft.App spells regions: it shows the display name, whatever the request said."""

from __future__ import annotations

from types import MappingProxyType

from infra.emulator.regions import REGIONS, normalized

_DISPLAY_NAMES = MappingProxyType({name: display for name, display, _ in REGIONS})


def region_name(location: str) -> str:
    """The name: `East US` -> `eastus`."""
    return normalized(location)


def display_name(location: str) -> str:
    """The display name: `eastus` -> `East US`. An unknown region is shown as it came."""
    return _DISPLAY_NAMES.get(normalized(location), location)
