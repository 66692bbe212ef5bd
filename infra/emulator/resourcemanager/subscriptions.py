"""The one subscription, its tenant and its locations."""

from __future__ import annotations

import uuid
from typing import Any

from infra.emulator.exceptions import AzureError
from infra.emulator.provider import Answer, Cloud
from infra.emulator.regions import REGIONS

_NAME = "inferops stand-in"


class Subscriptions:
    """Answers about the subscription of `cloud`."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud

    def check(self, subscription: str) -> None:
        """Raises AzureError SubscriptionNotFound, or InvalidSubscriptionId when it is no GUID."""
        if subscription.lower() == self._cloud.subscription.lower():
            return
        try:
            uuid.UUID(subscription)
        except ValueError:
            message = f"The provided subscription identifier '{subscription}' is malformed or invalid."
            raise AzureError(400, "InvalidSubscriptionId", message, from_gateway=True) from None
        message = f"The subscription '{subscription}' could not be found."
        raise AzureError(404, "SubscriptionNotFound", message, from_gateway=True)

    def list(self) -> Answer:
        """GET /subscriptions."""
        return Answer(200, {"value": [self._document()], "count": {"type": "Total", "value": 1}})

    def get(self) -> Answer:
        """GET /subscriptions/S."""
        return Answer(200, self._document())

    def locations(self) -> Answer:
        """GET /subscriptions/S/locations."""
        return Answer(
            200,
            {
                "value": [
                    {
                        "id": f"/subscriptions/{self._cloud.subscription}/locations/{name}",
                        "name": name,
                        "type": "Region",
                        "displayName": display,
                        "regionalDisplayName": f"({area}) {display}",
                        "metadata": {"regionType": "Physical", "regionCategory": "Recommended", "geographyGroup": area},
                    }
                    for name, display, area in REGIONS
                ]
            },
        )

    def tenants(self) -> Answer:
        """GET /tenants."""
        return Answer(200, {"value": [self.tenant_context()]})

    def tenant_context(self) -> dict[str, Any]:
        """What the template function tenant() answers."""
        domain = "standin.onmicrosoft.com"
        return {
            "id": f"/tenants/{self._cloud.tenant}",
            "tenantId": self._cloud.tenant,
            "countryCode": "US",
            "displayName": _NAME,
            "domains": [domain],
            "tenantCategory": "Home",
            "defaultDomain": domain,
            "tenantType": "AAD",
        }

    def template_context(self) -> dict[str, Any]:
        """What the template function subscription() answers."""
        return {
            "id": f"/subscriptions/{self._cloud.subscription}",
            "subscriptionId": self._cloud.subscription,
            "tenantId": self._cloud.tenant,
            "displayName": _NAME,
        }

    def _document(self) -> dict[str, Any]:
        return {
            "id": f"/subscriptions/{self._cloud.subscription}",
            "authorizationSource": "RoleBased",
            "managedByTenants": [],
            "subscriptionId": self._cloud.subscription,
            "tenantId": self._cloud.tenant,
            "displayName": _NAME,
            "state": "Enabled",
            "subscriptionPolicies": {
                "locationPlacementId": "Public_2014-09-01",
                "quotaId": "PayAsYouGo_2014-09-01",
                "spendingLimit": "Off",
            },
        }
