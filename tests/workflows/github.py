"""GitHub's side of a workflow run, on loopback: the issuer of OIDC assertions, and stand-ins for the actions used."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

REQUEST_TOKEN = "request-token-of-this-run"


class Issuer(ThreadingHTTPServer):
    """token.actions.githubusercontent.com: signs assertions about `subject`, publishes its key."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.subject = "repo:octo/model:ref:refs/heads/main"
        self.issued = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def assertion(self, audience: str) -> str:
        """A fresh assertion, valid for five minutes as GitHub's."""
        self.issued += 1
        now = int(time.time())
        claims = {"iss": self.url, "sub": self.subject, "aud": audience, "iat": now, "nbf": now, "exp": now + 300}
        return jwt.encode(claims, self.key, algorithm="RS256", headers={"kid": "1"})


class _Handler(BaseHTTPRequestHandler):
    server: Issuer

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        if address.path == "/.well-known/openid-configuration":
            self._answer(200, {"issuer": self.server.url, "jwks_uri": f"{self.server.url}/keys"})
        elif address.path == "/keys":
            public = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(self.server.key.public_key()))
            self._answer(200, {"keys": [public | {"kid": "1", "use": "sig"}]})
        elif address.path == "/assertion" and self.headers["Authorization"] == f"Bearer {REQUEST_TOKEN}":
            self._answer(200, {"value": self.server.assertion(parse_qs(address.query)["audience"][0])})
        else:
            self._answer(401, {"message": "unauthorized"})

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: pytest's output is for the tests."""


@contextmanager
def running_issuer() -> Iterator[Issuer]:
    """An issuer that answers until the block ends."""
    issuer = Issuer()
    thread = threading.Thread(target=issuer.serve_forever, daemon=True)
    thread.start()
    try:
        yield issuer
    finally:
        issuer.shutdown()
        issuer.server_close()
        thread.join()


_NOTHING = """
name: nothing
runs:
  using: composite
  steps:
    - run: "true"
      shell: bash
"""

_UPLOAD = """
name: upload
inputs:
  name: {required: true}
  path: {required: true}
  if-no-files-found: {default: warn}
runs:
  using: composite
  steps:
    - shell: bash
      env:
        NAME: ${{ inputs.name }}
        FILES: ${{ inputs.path }}
      run: |
        mkdir -p "$ARTIFACTS/$NAME"
        while read -r file; do [ -z "$file" ] || cp "$file" "$ARTIFACTS/$NAME/"; done <<< "$FILES"
"""


def write_actions(folder: Path) -> dict[str, Path]:
    """Local folders in place of the actions that need GitHub or the network, by the action's name.

    act has copied the tree already, so a checkout has nothing to do, and uv is this machine's own.
    """
    places = {}
    texts = {"actions/checkout": _NOTHING, "astral-sh/setup-uv": _NOTHING, "actions/upload-artifact": _UPLOAD}
    for name, text in texts.items():
        place = folder / name.replace("/", "-")
        place.mkdir(parents=True)
        (place / "action.yml").write_text(text)
        places[name] = place
    return places
