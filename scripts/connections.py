"""Connections to one address that are opened once and kept, for many requests at a time from many threads.

HTTP/1.1 over sockets and TLS of the standard library (why: docs/benchmarks.md). Knows neither Azure nor what is
sent; never retries, never redirects.
"""

from __future__ import annotations

import base64
import contextlib
import os
import select
import socket
import ssl
import struct
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO
from urllib.parse import SplitResult, unquote, urlsplit

from scripts.errors import BadInput, Problem
from scripts.http_answer import Answer, read_answer

TRUST_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")
"""Each names a PEM file, or a folder, with the certificates to trust; the first that is set counts."""

_SENT_AT_ONCE_BYTES = 256 * 1024
"""How much has to leave within the time for one answer, so that a large request does not fail on a slow line."""


class Connections:
    """Connections to the address (scheme, host, port), of which up to `kept` wait for the next request.

    certificate is a PEM file to trust in place of TRUST_VARIABLES, certifi and the machine's own list. Goes through the
    proxy that the process environment has for the address (HTTPS_PROXY, NO_PROXY). Raises BadInput when the process
    environment names certificates or a proxy that cannot be used.
    """

    def __init__(self, address: str, kept: int, certificate: Path | None = None) -> None:
        parts = urlsplit(address)
        self._named, self._host = parts.netloc, parts.hostname or ""
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._context = _trusting(certificate) if parts.scheme == "https" else None
        self._proxy = _proxy_of(parts)
        # Of a server that is asked in the clear, a proxy is told the whole address in each request.
        in_the_clear = self._proxy is not None and self._context is None
        self._before_target = f"{parts.scheme}://{parts.netloc}" if in_the_clear else ""
        self._for_proxy = _proxy_headers(self._proxy) if self._proxy is not None and in_the_clear else {}
        self._kept = kept
        self._idle: deque[_Connection] = deque()

    def request(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        content: bytes = b"",
        *,
        connect_seconds: float,
        answer_seconds: Callable[[], float],
    ) -> Answer:
        """Send a request and read its answer whole. target is the path with its query, encoded.

        connect_seconds is the longest to wait for a connection, answer_seconds for each sign of life after that: it is
        asked before each piece that is sent. Raises OSError when there is no whole answer, and what answer_seconds
        raises.
        """
        connection = self._take() or self._open(connect_seconds)
        try:
            # A server that refuses need not read all that is sent, and its answer is waiting then.
            with contextlib.suppress(BrokenPipeError):
                for piece in self._pieces(method, target, headers, content):
                    connection.socket.settimeout(answer_seconds())
                    connection.socket.sendall(piece)
            answer = read_answer(connection.stream, method)
        except BaseException:
            connection.abort()
            raise
        if len(self._idle) < self._kept and not answer.is_last:
            self._idle.append(connection)
        else:
            connection.close()
        return answer

    def close(self) -> None:
        """Close the connections that are kept."""
        while self._idle:
            self._idle.pop().close()

    def _pieces(
        self, method: str, target: str, headers: Mapping[str, str], content: bytes
    ) -> Iterator[bytes | memoryview]:
        """A request as it is sent. A small one in one piece: http.client's own way takes two, and twice as long."""
        lines = [f"{method} {self._before_target}{target} HTTP/1.1", f"Host: {self._named}"]
        lines += [f"{name}: {value}" for name, value in (*headers.items(), *self._for_proxy.items())]
        if content or method == "PUT":
            lines.append(f"Content-Length: {len(content)}")
        if not all(line.isprintable() for line in lines):
            raise ValueError("a line end, or another control character, in a request's address or headers")
        head = "\r\n".join([*lines, "\r\n"]).encode("ascii")
        if len(content) <= _SENT_AT_ONCE_BYTES:
            yield head + content
            return
        yield head
        view = memoryview(content)
        for begin in range(0, len(content), _SENT_AT_ONCE_BYTES):
            yield view[begin : begin + _SENT_AT_ONCE_BYTES]

    def _take(self) -> _Connection | None:
        """A connection that was used a moment ago, if there is one."""
        with contextlib.suppress(IndexError):
            connection = self._idle.pop()
            if not _has_ended(connection.socket):
                return connection
            connection.close()
        return None

    def _open(self, seconds: float) -> _Connection:
        host, port = (self._host, self._port) if self._proxy is None else _address(self._proxy)
        opened = socket.create_connection((host, port), seconds)
        try:
            # A request's last piece does not wait for the far side to confirm the one before.
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._context is not None:
                if self._proxy is not None:
                    _lead_through(opened, self._host, self._port, _proxy_headers(self._proxy))
                opened = self._context.wrap_socket(opened, server_hostname=self._host)
            return _Connection(opened)
        except BaseException:
            opened.close()
            raise


class _Connection:
    """A socket, and what comes from it as a stream."""

    def __init__(self, opened: socket.socket) -> None:
        self.socket = opened
        self.stream: BinaryIO = opened.makefile("rb")

    def abort(self) -> None:
        """Close it, and forget what was to be sent: the machine would go on sending that for minutes."""
        with contextlib.suppress(OSError):  # the far side may have gone
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self) -> None:
        self.stream.close()
        self.socket.close()


def _lead_through(opened: socket.socket, host: str, port: int, headers: Mapping[str, str]) -> None:
    """Have the proxy at the other end connect to the address; raises OSError when it does not."""
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    lines = [f"CONNECT {address} HTTP/1.1", f"Host: {address}", *(f"{name}: {headers[name]}" for name in headers)]
    opened.sendall("\r\n".join([*lines, "\r\n"]).encode("ascii"))
    # The far side says nothing on its own, so no byte of it is lost with this stream.
    with opened.makefile("rb") as stream:
        answer = read_answer(stream, "CONNECT")
    if answer.status != 200:
        raise OSError(f"the proxy answered {answer.status} {answer.reason}".strip())


def _has_ended(connection: socket.socket) -> bool:
    """Whether the far side has closed a connection on which no answer is due: only then is there something to read."""
    if hasattr(select, "poll"):
        poll = select.poll()
        poll.register(connection, select.POLLIN)
        return bool(poll.poll(0))
    return bool(select.select([connection], [], [], 0)[0])


def _trusting(certificate: Path | None) -> ssl.SSLContext:
    named = next(((name, os.environ[name]) for name in TRUST_VARIABLES if os.environ.get(name)), None)
    if certificate is None and named is None:
        with contextlib.suppress(ImportError):
            import certifi

            return ssl.create_default_context(cafile=certifi.where())
        return ssl.create_default_context()
    file, variable = (certificate, "") if certificate is not None or named is None else (Path(named[1]), named[0])
    assert file is not None
    try:
        if file.is_dir():
            return ssl.create_default_context(capath=file)
        return ssl.create_default_context(cafile=file)
    except OSError as error:  # an ssl.SSLError for what is no certificate is one, too
        what = f"the certificates to trust cannot be read ({error.strerror or error})"
        next_step = f"Correct {variable}" if variable else "Start the stand-in again: make local"
        raise BadInput([Problem(str(file), variable, None, what, next_step)]) from None


def _proxy_of(address: SplitResult) -> SplitResult | None:
    """The proxy that the process environment, or a desktop's settings, have for the address; None for none."""
    if sys.platform not in ("darwin", "win32") and not any(name.lower().endswith("_proxy") for name in os.environ):
        return None
    # Only now: importing it costs as much as all the rest.
    from urllib.request import getproxies, proxy_bypass

    proxies = getproxies()
    named = proxies.get(address.scheme) or proxies.get("all")
    host = address.hostname or ""
    if not named or proxy_bypass(f"{host}:{address.port}" if address.port else host) or _is_in(host, proxies.get("no")):
        return None
    proxy = urlsplit(named if "://" in named else f"http://{named}")
    if proxy.scheme != "http" or not proxy.hostname:
        variable = f"{address.scheme.upper()}_PROXY"
        what = "the proxy's address does not begin with http://, and no other kind is supported"
        raise BadInput([Problem(None, variable, None, what, "Write it as http://HOST:PORT")])
    return proxy


def _is_in(host: str, networks: str | None) -> bool:
    """Whether the host is an address of one of the networks (10.0.0.0/8) of a NO_PROXY."""
    from ipaddress import ip_address, ip_network

    for network in (networks or "").split(","):
        with contextlib.suppress(ValueError):
            if "/" in network and ip_address(host) in ip_network(network.strip(), strict=False):
                return True
    return False


def _address(proxy: SplitResult) -> tuple[str, int]:
    return proxy.hostname or "", proxy.port or 80


def _proxy_headers(proxy: SplitResult) -> dict[str, str]:
    if proxy.username is None:
        return {}
    person = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": f"Basic {base64.b64encode(person.encode()).decode()}"}
