"""The sockets that a server binds to a host and a port. The module loads no library and does not know who answers."""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence

from afina.errors import AfinaError
from afina.server import problems


def bind(host: str, port: int) -> Sequence[socket.socket]:
    """Return sockets bound to a port on each address of a host. The sockets do not listen yet.

    `host`: name or address of this machine. `port`: 0: any free port.

    Raises NotFound for a host that is not this machine's, Busy for a port in use, and Refused if this user may not use
    it.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        raise problems.HOST_MISSING(_reason="unknown address", host=host) from None
    sockets: list[socket.socket] = []
    for family, kind, protocol, _, address in dict.fromkeys(found):
        one = socket.socket(family, kind, protocol)
        sockets.append(one)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            one.bind((address[0], port, *address[2:]))
        except OSError as error:
            for each in sockets:
                each.close()
            raise refusal(host, port, error) from None
        port = one.getsockname()[1]
    return sockets


def refusal(host: str, port: int, error: OSError) -> AfinaError:
    """Return the error of a port on which this process cannot listen."""
    if error.errno == errno.EADDRINUSE:
        return problems.PORT_OCCUPIED(host=host, port=port)
    if error.errno in (errno.EACCES, errno.EPERM):
        return problems.PORT_FORBIDDEN(host=host, port=port)
    return problems.HOST_MISSING(_reason="not an address of this machine", host=host)
