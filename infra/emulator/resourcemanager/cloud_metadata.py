"""GET /metadata/endpoints: what a client is told of a cloud before it signs in (`az cloud register`)."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit


def endpoints(base_url: str, tenant: str) -> dict[str, Any]:
    """The document of API version 2022-09-01. Services that are not served here have an empty address or none.

    A client makes an account's address of the suffix, https://ACCOUNT.file.SUFFIX, so the port belongs to it; the SDK
    reads the account's name off the address where ".file.core." follows it.
    """
    storage = f"core.localhost:{urlsplit(base_url).port}"
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
        "suffixes": {"storage": storage, "acrLoginServer": "", "keyVaultDns": "", "sqlServerHostname": ""},
        "batch": "",
        "resourceManager": base_url,
        "vmImageAliasDoc": "",
        "activeDirectoryDataLake": "",
        "sqlManagement": "",
        "microsoftGraphResourceId": base_url,
        "gallery": "",
    }
