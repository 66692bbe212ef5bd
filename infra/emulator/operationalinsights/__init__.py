"""Microsoft.OperationalInsights: Log Analytics workspaces, as far as a container app's environment needs them."""

from infra.emulator.operationalinsights.workspaces import OperationalInsightsProvider

__all__ = ["OperationalInsightsProvider"]
