"""GET /metadata/endpoints: what a client is told of a cloud before it signs in (`az cloud register`)."""

from __future__ import annotations

from typing import Any


def endpoints(base_url: str, tenant: str) -> dict[str, Any]:
    """The document of API version 2022-09-01. Services that are not served here have an empty address or none."""
    return {
        "portal": base_url,
        "authentication": {
            "loginEndpoint": base_url,
            "audiences": [base_url, "https://management.core.windows.net/", "https://management.azure.com/"],
            "tenant": tenant,
            "identityProvider": "AAD",
        },
        "media": "",
        "graphAudience": base_url,
        "graph": base_url,
        "name": "StandIn",
        "suffixes": {"storage": "file.localhost", "acrLoginServer": "", "keyVaultDns": "", "sqlServerHostname": ""},
        "batch": "",
        "resourceManager": base_url,
        "vmImageAliasDoc": "",
        "activeDirectoryDataLake": "",
        "sqlManagement": "",
        "microsoftGraphResourceId": base_url,
        "gallery": "",
    }
