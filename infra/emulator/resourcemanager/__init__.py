"""Azure Resource Manager: subscriptions, resource groups, providers, resources, deployments and their what-if.

responses.py speaks HTTP; every other file speaks in Call and Answer and knows no request.
"""

from infra.emulator.resourcemanager.responses import ResourceManager

__all__ = ["ResourceManager"]
