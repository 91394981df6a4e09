"""The order in which several processes carry out the slow tests, so that none waits for another and none ends alone.

`--dist worksteal` gives each process the same number of tests in a row, and later half of what another has left.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from random import Random

import pytest


def shuffled(items: Sequence[pytest.Item], seed: int) -> list[pytest.Item]:
    """Return the modules in a random order, and the tests of each in a random order; modules stay together."""
    random, modules = Random(seed), defaultdict[str, list[pytest.Item]](list)
    for item in items:
        modules[item.nodeid.partition("::")[0]].append(item)
    return [
        item
        for name in random.sample(sorted(modules), len(modules))
        for item in random.sample(modules[name], len(modules[name]))
    ]


def in_shares(items: Sequence[pytest.Item], count: int, *, by_size: bool = True) -> list[pytest.Item]:
    """Return the tests in the order for so many processes, of which each takes its share from its beginning.

    Tests that need real models go on one at a time, so all of them begin the first share; those of Ray share a cluster,
    and begin the last. Tests of one module stay together, since they share its fixtures. A module that has few slow
    tests has long ones, and begins a share; the short ones of large grids end it.
    """
    first = [item for item in items if item.get_closest_marker("assets")]
    modules: defaultdict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        if not item.get_closest_marker("assets"):
            modules[item.nodeid.partition("::")[0]].append(item)
    last = [item for name in sorted(modules) if "/cluster/" in name for item in modules.pop(name)]
    dealt: list[list[pytest.Item]] = [[] for _ in range(count)]
    for place, name in enumerate(sorted(modules, key=lambda name: len(modules[name]) if by_size else 0)):
        dealt[place % count] += modules[name]
    dealt[0][:0], dealt[-1][:0] = first, last
    sizes = [(len(items) + place) // count for place in range(count)]  # as `worksteal` divides them
    over = [item for share, size in zip(dealt, sizes, strict=True) for item in share[size:]]
    found: list[pytest.Item] = []
    for share, size in zip(dealt, sizes, strict=True):
        found += share[:size]
        missing = max(0, size - len(share))
        found += over[:missing]
        del over[:missing]
    return found
