"""The order of the slow tests: none is lost, and those that are long or wait for each other begin a share."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from shares import in_shares, shuffled


class Item:
    """As much of a test as the order depends on."""

    def __init__(self, module: str, number: int, *, assets: bool = False) -> None:
        self.nodeid, self.assets = f"tests/{module}.py::test_{number}", assets

    def get_closest_marker(self, name: str) -> Any:
        return self.assets if name == "assets" else None


@pytest.mark.parametrize("count", [1, 2, 3])
def test_each_share_begins_with_what_is_long(count: int) -> None:
    sizes = {"cluster/test_ray": 5, "cli/test_cli": 2, "methods/test_grid": 90, "studies/test_few": 3}
    items: Any = [Item(module, number) for module, size in sizes.items() for number in range(size)]
    real = [Item(f"{module}", 99, assets=True) for module in ("cli/test_cli", "studies/test_few")]
    items += real
    found = in_shares(items, count)
    assert sorted(found, key=id) == sorted(items, key=id)
    starts = [sum((len(items) + place) // count for place in range(share)) for share in range(count)]
    assert found[:2] == real or count == 1
    assert "cluster" in found[starts[-1]].nodeid
    assert {item.nodeid.partition("::")[0] for item in found[-20:]} == {"tests/methods/test_grid.py"}
    if count == 2:  # the grid alone is divided, and no module's tests are apart from each other otherwise
        modules = [item.nodeid.partition("::")[0] for item in found if not item.assets]
        assert sum(one != other for one, other in pairwise(modules)) == len(sizes)


def test_a_random_order_keeps_modules_together_and_is_that_of_its_seed() -> None:
    items: Any = [Item(f"cli/test_{module}", number) for module in range(5) for number in range(6)]
    found = [shuffled(items, seed) for seed in (1, 1, 2)]
    assert found[0] == found[1]
    assert len({tuple(map(id, order)) for order in (items, found[0], found[2])}) == 3
    for order in (found[0], in_shares(found[0], 1, by_size=False)):
        modules = [item.nodeid.partition("::")[0] for item in order]
        assert sorted(order, key=id) == sorted(items, key=id)
        assert sum(one != other for one, other in pairwise(modules)) == 4
    assert in_shares(found[0], 1, by_size=False) == found[0]
