"""Azure Container Apps on one machine: environments, apps, revisions, replicas as local processes, ingress, logs."""

from infra.emulator.containerapps.provider import ContainerAppsProvider

__all__ = ["ContainerAppsProvider"]
