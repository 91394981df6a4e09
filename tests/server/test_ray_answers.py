"""What the proxies of Ray Serve put together from the answers of several replicas."""

from __future__ import annotations

from typing import Any

from afina.server.metrics import Metrics
from afina.server.ray_serve import answers
from afina.server.ray_serve.affinity import SHARE, RankedReplica, ordered
from afina.server.versions.shadow_counts import AnswerDifference, ShadowCounts


def _shadow(state: str, *differences: tuple[bool, float], shadow: int | None = 2) -> dict[str, Any]:
    counts = ShadowCounts()
    for flipped, drift in differences:
        counts = counts.seen(AnswerDifference(flipped, drift))
    return {"name": "acme/reviews", "current": 1, "shadow": shadow, "state": state, "problem": None, **counts.as_json()}


def test_counts_of_a_shadow_are_those_of_all_replicas_together() -> None:
    one = [(True, 0.5), (False, 0.1)]
    other = [(False, -0.2), (True, 0.3), (False, 0.0)]
    found = answers.summed_shadows([_shadow("riding", *one), _shadow("riding", *other)])
    assert found is not None
    alone = _shadow("riding", *one, *other)
    assert found["servers"] == 2
    assert (found["texts"], found["flips"], found["flip_rate"]) == (5, 2, 0.4)
    assert abs(found["drift"] - alone["drift"]) < 1e-12
    assert abs(found["scatter"] - alone["scatter"]) < 1e-12


def test_a_shadow_that_fails_on_one_replica_is_not_said_to_be_well() -> None:
    found = answers.summed_shadows([_shadow("riding"), {**_shadow("failed"), "problem": "why"}])
    assert found is not None
    assert (found["state"], found["problem"]) == ("failed", "why")


def test_counts_of_different_versions_are_not_added() -> None:
    assert answers.summed_shadows([_shadow("riding"), _shadow("riding", shadow=3)]) is None


def _samples(text: str) -> dict[str, float]:
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in text.splitlines() if line[0] != "#"}


def test_merged_metrics_have_every_sample_of_every_replica_once_and_a_family_in_one_place() -> None:
    texts = {}
    for number, name in enumerate("ab", 1):
        metrics = Metrics()
        metrics.requests.labels("/predict", "200").inc(number)
        metrics.tokens.inc(10 * number)
        metrics.step.observe(0.02)
        metrics.watch(lambda number=number: {"afina_ready": float(number)}, list, dict)  # type: ignore[misc]
        texts[name] = metrics.text().decode()
    merged = answers.merged_metrics(texts, ["c"])
    found = _samples(merged)
    for name, text in texts.items():
        for sample, value in _samples(text).items():
            metric, _, labels = sample.partition("{")
            assert found.pop(f'{metric}{{replica="{name}"{"," if labels else "}"}{labels}') == value
    assert found == {f'afina_replica_up{{replica="{name}"}}': float(name != "c") for name in "abc"}
    heads = [line for line in merged.splitlines() if line.startswith("# TYPE")]
    assert len(heads) == len({*heads})
    lines = [line for line in merged.splitlines() if line.startswith("afina_requests_total")]
    first = merged.splitlines().index(lines[0])
    assert merged.splitlines()[first : first + 2] == lines  # one after the other, as Prometheus demands


def test_an_adapter_on_several_replicas_stays_on_one_until_that_one_has_more_to_do() -> None:
    """So that the other copies get cold, and a popular adapter uses several replicas nevertheless."""
    both = [RankedReplica(name, True, 0) for name in "ab"]
    home = ordered("key", both)[0]
    assert [one.name for one in both if one.name != home] == ["b" if home == "a" else "a"]
    for more in range(2 * SHARE):
        loads = [RankedReplica(name, True, more if name == home else 0) for name in "ab"]
        assert (ordered("key", loads)[0] == home) == (more < SHARE)
