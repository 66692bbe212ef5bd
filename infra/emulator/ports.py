"""Ports on loopback for what is to be found at the same address again.

They are not of the range from which systems take ports for outgoing connections (from 32768 on Linux, from 49152
elsewhere): such a port may be taken by anybody while its owner is away, and a program that tries one where nobody
listens, as a probe does, can come to be connected with itself, so that nobody can listen there any more.
"""

from __future__ import annotations

import random
import socket

_LOOPBACK = "127.0.0.1"
_PORTS = range(20_000, 30_000)
_TRIES = 100


def bound(port: int) -> socket.socket:
    """A socket on that port. Raises OSError when it is not free."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((_LOOPBACK, port))
    except OSError:
        listener.close()
        raise
    return listener


def bound_to_any() -> socket.socket:
    """A socket on a port that nobody has, nor had a moment ago."""
    for port in random.sample(_PORTS, _TRIES):
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            listener.bind((_LOOPBACK, port))
        except OSError:
            listener.close()
            continue
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return listener
    return bound(0)


def free() -> int:
    """The number of such a port, for another process to take at once."""
    with bound_to_any() as listener:
        port: int = listener.getsockname()[1]
    return port
