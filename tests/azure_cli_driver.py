"""Runs commands of the real Azure CLI in one process: by the CLI's own Python, never by the project's.

Each line of the standard input is a JSON list, the arguments after `az`; each line of the standard output is JSON with
`exit_code`, `stdout` and `stderr`. A start of `az` costs a second, a command here a tenth. Names under .localhost lead
to loopback, as browsers and RFC 6761 have it: not every resolver does that.
"""

from __future__ import annotations

import contextlib
import io
import json
import socket
import sys
from typing import Any

from azure.cli.core import get_default_cli  # type: ignore[import-untyped, import-not-found, unused-ignore]

_resolve = socket.getaddrinfo


def _with_localhost(host: Any, *arguments: Any, **named: Any) -> Any:
    below = isinstance(host, str) and host.endswith(".localhost")
    return _resolve("127.0.0.1" if below else host, *arguments, **named)


def run(arguments: list[str]) -> dict[str, Any]:
    """One command, as `az` runs it."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        try:
            code = get_default_cli().invoke(arguments, out_file=output)
        except SystemExit as end:
            code = end.code
    return {"exit_code": code, "stdout": output.getvalue()}


def main() -> None:
    """Until the standard input ends."""
    answers, sys.stderr = sys.stdout, io.StringIO()
    socket.getaddrinfo = _with_localhost
    for line in sys.stdin:
        answer = run(json.loads(line)) | {"stderr": sys.stderr.getvalue()}
        sys.stderr.seek(0)
        sys.stderr.truncate()
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
