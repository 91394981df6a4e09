"""The rendezvous of workers that execute a run together: where they meet, and how a worker joins them.

The module can be imported without torch.
"""

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

    Attributes:
        number: The number of the worker, from 0.
        count: The number of workers.
        address: Where the workers meet: a free port of the machine of rank 0, such as tcp://10.0.0.1:40000, or a file
            that all workers see, such as file:///tmp/run/meeting.
        token: A random string that all workers of the run have, and no worker of another run.
        local: The number of the worker's GPU among the GPUs that the worker sees.
        shards: Whether each worker keeps only a part of the backbone's weights.
    """

    number: int
    count: int
    address: str
    token: str
    local: int = 0
    shards: bool = False


def check_devices(devices: int, *, shard: bool, most: int | None = None) -> None:
    """Raise InvalidStudy if the number of devices of a run is not positive, or a single device is to be sharded.

    Args:
        most: The largest number of devices of this machine. None: the devices are on other machines.
    """
    if devices < 1:
        raise problems.DEVICES_INVALID(option="devices", found=devices)
    if most is not None and devices > most:
        raise problems.DEVICES_TOO_MANY(option="devices", found=devices, most=most)
    if shard and devices == 1:
        raise problems.SHARD_ALONE(option="shard")


def free_port() -> int:
    """Return the number of a port that no process of this machine uses now."""
    with socket.create_server(("", 0)) as server:
        return int(server.getsockname()[1])


def ranks_here(directory: str, count: int, *, shards: bool) -> list[Rank]:
    """Return the places of the workers of one run on this machine, in the order of the ranks.

    Workers on one machine meet in a file. A port would be open to other machines, and another run could take the port.

    Args:
        directory: An empty directory that exists until the workers have ended.
        count: The number of workers; each takes another GPU, if the machine has GPUs.
        shards: Whether each worker keeps only a part of the backbone's weights.
    """
    token = secrets.token_hex(8)
    address = f"file://{directory}/meeting"
    return [
        Rank(number=number, count=count, address=address, token=token, local=number, shards=shards)
        for number in range(count)
    ]


def ranks_on_nodes(host: str, port: int, count: int, *, shards: bool) -> list[Rank]:
    """Return the places of the workers of one run, in the order of the ranks. Each worker sees a single GPU, or none.

    Args:
        host: The address of the machine of rank 0.
        port: A free port of this machine.
        count: The number of workers.
        shards: Whether each worker keeps only a part of the backbone's weights.
    """
    address, token = f"tcp://{f'[{host}]' if ':' in host else host}:{port}", secrets.token_hex(8)
    return [Rank(number=number, count=count, address=address, token=token, shards=shards) for number in range(count)]


def join(rank: Rank | None) -> Ranks:
    """Join the other workers of a run, and return the ranks. A worker without a rank is alone.

    Raises RunFailed if the workers do not meet, also if a worker of another run is among them, and InvalidStudy if the
    machine has too few GPUs.
    """
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

    By default, gloo takes the address that this machine's own name has. On many machines, this is a loopback address,
    to which other machines cannot connect, or the name has no address.
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
