"""Which replica a request goes to: its model, and the order of replicas by their adapters and their load."""

from __future__ import annotations

from itertools import permutations

import pytest

from afina.server.ray_serve.affinity import SPILL, RankedReplica, affinity_key, model_of, ordered

BODY = b'{"model": "acme/reviews@production", "inputs": "The \\"model\\": is fine."}'


@pytest.mark.parametrize(
    ("path", "query", "body", "model"),
    [
        ("/predict", b"", BODY, "acme/reviews@production"),
        ("/predict", b"model=acme/tags", b'{"inputs": "x"}', "acme/tags"),
        ("/predict", b"x=1&model=acme%2Ftags%402", b'{"inputs": "x"}', "acme/tags@2"),
        ("/classify", b"", b'{"input": ["a", "b"], "model" : "acme/reviews"}', "acme/reviews"),
        ("/v1/completions", b"", b'{"prompt": "x", "stream": true, "model": "acme/told"}', "acme/told"),
        ("/v1/chat/completions", b"", b'{"model":"acme/chat","messages":[]}', "acme/chat"),
        ("/models/acme/reviews", b"", b'{"inputs": "x"}', "acme/reviews"),
        ("/v2/models/acme/reviews/infer", b"", b'{"inputs": []}', "acme/reviews"),
        ("/v2/models/acme/reviews/versions/3/infer", b"", b'{"inputs": []}', "acme/reviews"),
        ("/aliases/acme/reviews/production", b"", b'{"version": 3}', "acme/reviews"),
        ("/shadows/acme/reviews", b"", b"", "acme/reviews"),
        ("/tasks", b"", b'{"text": "x", "models": ["acme/reviews", "acme/tags"]}', "acme/reviews"),
        ("/bulk", b"model=acme/reviews", b"", "acme/reviews"),
        ("/bulk", b"", b"", None),
        ("/v1/models", b"", b"", None),
        ("/v1/models/acme/told@2", b"", b"", "acme/told@2"),
        ("/predict", b"", b"not JSON", None),
        ("/predict", b"", b'{"model": 3, "inputs": "x"}', None),
        ("/predict", b"", b'\xff\xfe{"model": "acme/\xff"}', "acme/�"),
    ],
)
def test_the_model_is_found_in_the_path_the_query_or_the_body(
    path: str, query: bytes, body: bytes, model: str | None
) -> None:
    assert model_of(path, query, body) == model


def test_versions_of_a_name_have_one_key_and_the_key_does_not_contain_the_name() -> None:
    keys = {affinity_key(f"acme/reviews{which}") for which in ("", "@production", "@3")}
    assert len(keys) == 1
    assert "acme" not in keys.pop()
    assert affinity_key("acme/reviews") != affinity_key("bolt/reviews")


def test_a_replica_that_holds_the_adapter_comes_first_and_every_replica_is_in_the_order_once() -> None:
    of = [RankedReplica("a", False, 0), RankedReplica("b", True, SPILL - 1), RankedReplica("c", False, 1)]
    assert ordered("key", of)[0] == "b"
    assert sorted(ordered("key", of)) == ["a", "b", "c"]


def test_of_several_replicas_that_hold_the_adapter_the_least_busy_comes_first() -> None:
    for loads in ((3, 1), (1, 3), (SPILL, 0)):
        least = min(zip(loads, "ab", strict=True))[1]
        of = [RankedReplica(name, True, load) for load, name in zip(loads, "ab", strict=True)]
        assert ordered("key", [*of, RankedReplica("c", False, 0)])[0] == least


def test_an_adapter_that_no_replica_holds_goes_to_the_one_with_the_fewest_unless_it_is_busy() -> None:
    assert ordered("key", [RankedReplica("a", False, 0, 7), RankedReplica("b", False, SPILL - 1, 6)])[0] == "b"
    assert ordered("key", [RankedReplica("a", False, 0, 7), RankedReplica("b", False, SPILL, 6)])[0] == "a"


def test_requests_for_an_adapter_spill_over_to_another_replica_if_its_own_one_is_much_busier() -> None:
    assert ordered("key", [RankedReplica("a", True, SPILL), RankedReplica("b", False, 0)])[0] == "b"
    assert ordered("key", [RankedReplica("a", True, 9 + SPILL), RankedReplica("b", False, 10)])[0] == "a"


def test_the_order_depends_on_no_order_of_the_replicas() -> None:
    of = [
        RankedReplica("a", False, 1),
        RankedReplica("b", True, 2),
        RankedReplica("c", False, 1),
        RankedReplica("d", True, 2),
    ]
    assert len({tuple(ordered("key", each)) for each in permutations(of)}) == 1


def test_requests_without_a_model_go_to_the_least_busy_replica_and_without_replicas_there_is_no_order() -> None:
    assert ordered(None, [RankedReplica("a", True, 2), RankedReplica("b", False, 0)]) == ["b", "a"]
    assert ordered("key", []) == []


def test_adapters_that_no_replica_holds_spread_over_the_replicas() -> None:
    """As many to each as the others, if each has its adapters in memory afterwards."""
    held: dict[str, set[str]] = {name: set() for name in "abc"}
    for number in range(60):
        key = affinity_key(f"acme/task-{number}")
        candidates = [RankedReplica(name, key in keys, 0, len(keys)) for name, keys in held.items()]
        held[ordered(key, candidates)[0]].add(key)
    assert [len(keys) for keys in held.values()] == [20, 20, 20]
