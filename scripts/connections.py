"""Connections to one service that are opened once and kept, for many small requests at a time.

A session of `requests` reads the process environment, merges settings and follows redirects anew for each request; the
SDK uses none of it. This one looks at them once: half of the processor time of a small request, and no handshake but
the first of each connection (docs/benchmarks.md). Knows neither Azure nor what is sent.
"""

from __future__ import annotations

from typing import Any

import requests
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict


class KeptConnections(requests.Session):
    """A session for requests to one address, from up to `connections` threads at once.

    Proxies and trust are those that the process environment says for the address when it is made (HTTPS_PROXY,
    NO_PROXY, REQUESTS_CA_BUNDLE), unless `verify` names the certificates to trust. Never retries, never redirects:
    that is the caller's. Raises what `requests` raises.
    """

    def __init__(self, address: str, connections: int, verify: str | bool = True) -> None:
        super().__init__()
        settings = self.merge_environment_settings(address, {}, False, verify, None)
        self._options = {name: settings[name] for name in ("proxies", "verify", "cert")}
        self._adapter = HTTPAdapter(pool_maxsize=connections, max_retries=0)
        self.mount("https://", self._adapter)
        self.mount("http://", self._adapter)

    def request(  # type: ignore[override]
        self, method: str, url: str, *, headers: Any, data: Any, timeout: Any, stream: bool = False, **_: Any
    ) -> requests.Response:
        """Send what the SDK's transport has prepared (RequestsTransport.send), as it is."""
        prepared = requests.PreparedRequest()
        prepared.method, prepared.url, prepared.body = method, url, data
        prepared.headers = CaseInsensitiveDict(headers)
        response = self._adapter.send(prepared, stream=True, timeout=timeout, **self._options)
        if not stream:
            response.content  # noqa: B018  reading it whole gives the connection back
        return response
