"""The rendezvous of workers that execute a run together: where they meet, and how a worker joins them."""

from __future__ import annotations

import fcntl
import os
import secrets
import socket
import struct
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from afina.schema import Frozen
from afina.studies.executors import problems

if TYPE_CHECKING:
    from afina.ranks import Ranks

_INTERFACE = "GLOO_SOCKET_IFNAME"
"""The environment variable with the name of the network interface through which gloo connects workers."""

_ADDRESS_OF_INTERFACE = 0x8915
"""The request SIOCGIFADDR of Linux's `ioctl`: the IPv4 address of a network interface."""


class Rank(Frozen):
    """The place of a worker among the workers that execute a run together.

    `address` is a port of rank 0's machine, such as tcp://10.0.0.1:40000, or a file that all workers see, such as
    file:///tmp/run/meeting. The random `token` tells the workers of different runs apart. `local` is the number of the
    worker's GPU among those that it sees.
    """

    number: int
    count: int
    address: str
    token: str
    local: int = 0
    shards: bool = False


def check_devices(devices: int, *, shard: bool, most: int | None = None) -> None:
    """Raise InvalidStudy for a count below 1 or above `most`, or if a single device is to be sharded."""
    if devices < 1:
        raise problems.DEVICES_INVALID(option="devices", found=devices)
    if most is not None and devices > most:
        raise problems.DEVICES_TOO_MANY(option="devices", found=devices, most=most)
    if shard and devices == 1:
        raise problems.SHARD_ALONE(option="shard")


def free_port() -> int:
    with socket.create_server(("", 0)) as server:
        return int(server.getsockname()[1])


def ranks_here(directory: str, count: int, *, shards: bool) -> list[Rank]:
    """Return the places of the workers of one run on this machine, which meet in an empty directory.

    A port would be open to other machines, and another run could take the port.
    """
    token = secrets.token_hex(8)
    address = f"file://{directory}/meeting"
    return [
        Rank(number=number, count=count, address=address, token=token, local=number, shards=shards)
        for number in range(count)
    ]


def ranks_on_nodes(host: str, port: int, count: int, *, shards: bool) -> list[Rank]:
    """Return the places of the workers of one run, which meet at rank 0's host. Each sees a single GPU, or none."""
    address, token = f"tcp://{f'[{host}]' if ':' in host else host}:{port}", secrets.token_hex(8)
    return [Rank(number=number, count=count, address=address, token=token, shards=shards) for number in range(count)]


def join(rank: Rank | None) -> Ranks:
    """Join the other workers of a run. Raises RunFailed if they do not meet, InvalidStudy for too few GPUs."""
    from afina.ranks import ALONE, Ranks

    if rank is None:
        return ALONE
    host = urlsplit(rank.address).hostname or "127.0.0.1"  # workers that meet in a file are on this machine
    if _INTERFACE not in os.environ and (found := interface(host)) is not None:
        os.environ[_INTERFACE] = found
    joined = Ranks.joined(rank.number, rank.count, rank.address, local=rank.local, shards=rank.shards)
    if set(joined.gather(rank.token)) != {rank.token}:
        raise problems.RANKS_MIXED()
    return joined


def interface(host: str) -> str | None:
    """Return the network interface of this machine that leads to `host`; None if it cannot be found.

    By default, gloo takes the address of this machine's own name, often a loopback address or none.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, suppress(OSError):
        probe.connect((host, 9))  # sends nothing
        own = socket.inet_aton(probe.getsockname()[0])
        for _, name in socket.if_nameindex():
            with suppress(OSError):  # the interface has no address
                found = fcntl.ioctl(probe.fileno(), _ADDRESS_OF_INTERFACE, struct.pack("256s", name.encode()))
                if found[20:24] == own:
                    return name
    return None
