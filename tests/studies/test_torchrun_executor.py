"""Runs in the processes that torchrun starts: their results are those of one process, and an error is said once."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from afina import Study
from afina.errors import AfinaError, InvalidData, RunFailed
from afina.problems import RANK_LOST
from afina.ranks import Ranks
from afina.studies.executors import torchrun_executor
from afina.studies.executors.torchrun_executor import TorchrunExecutor, follow
from afina.studies.executors.worker import CarryOut, Failed
from afina.studies.results import Results
from afina.studies.runs import prepared
from afina.studies.runs.record import Record
from afina.studies.runs.run import Run
from command import HereExecutor
from fakes import Backbones, sentences, write_csv
from raises import raises
from together import together
from trainer import compare_weights

TOLERANCE = 1e-5

SINGLE = 3e-3
"""The share of a model's entries in which Adam may turn rounding into a part of a step, as in `trainer.compare`."""

EXACT: dict[str, Any] = {"dropout": 0.0}
SETTINGS = {"max_steps": 50, "batch_size": 8, "dtype": "float32"}

METHODS: dict[str, dict[str, Any]] = {
    "lora": EXACT,
    "full": {},
    "ia3": {},
    "prefix": {},
    "linear_probe": {},
    "zero-shot": {"offset": True},
    "int8": {"method": "lora", "precision": "int8", **EXACT},
    "student": {"method": "lora", "teacher": "full", **EXACT},
    "unsure": {"method": "linear_probe", "abstain_error": 0.5},
}


def studies(backbones: Backbones, where: Path) -> list[dict[str, Any]]:
    """Studies of classes and of texts to write, without dropout."""
    neutral = where / "neutral.txt"
    neutral.write_text("\n".join(f"The {word} stood beside the house." for word in ("tree", "cart", "wall")))
    texts = [text for text, _ in sentences(120)]
    files = {
        "classes": write_csv(where / "classes.csv", [(t, ("bad", "good")[label]) for t, label in sentences(400)]),
        "texts": write_csv(where / "texts.csv", [(one, " ".join(one.split()[:3])) for one in texts], ("text", "first")),
    }
    common = {"backbone": str(backbones.path("gpt2", dropout=0.0)), "train": SETTINGS}
    measured = {**SETTINGS, "temperature": True, "retention": str(neutral)}
    return [
        {**common, "name": "classes", "task": str(files["classes"]), "train": measured, "methods": METHODS},
        {
            **common,
            "name": "texts",
            "task": str(files["texts"]),
            "data": {"kind": "text", "label": "first"},
            "methods": {"lora": EXACT, "full": {}},
        },
    ]


def carry_out(ranks: Ranks, contents: list[dict[str, Any]], out: Path) -> int:
    """Rank 0 runs the studies, and the other ranks follow; the exit status of a rank."""
    if not ranks.is_first:
        return follow(ranks, print)
    executor = TorchrunExecutor(ranks)
    for content in contents:
        results = Study.parse(content, "here").run(out / content["name"], executor=executor)
        assert results.failed == (), results.failed
    executor.close()
    return 0


def tensors_of(out: Path, record: Record) -> Any:
    """The tensors of a run's adapter, as `compare_weights` takes them; none if the run has no adapter."""
    adapters = sorted((out / record.adapter).glob("*.safetensors")) if record.adapter else []
    return SimpleNamespace(after={name: each for one in adapters for name, each in load_file(one).items()})


def assert_alike(found: Results, expected: Results) -> None:
    assert [one.name for one in found.records] == [one.name for one in expected.records]
    for one, other in zip(found.results, expected.results, strict=True):
        made, alone, about = one.record, other.record, one.record.name
        assert made.key == alone.key, about
        assert made.steps == alone.steps
        assert np.allclose([loss for _, loss in made.losses], [loss for _, loss in alone.losses], atol=TOLERANCE)
        for name, value in alone.metrics.items():
            assert made.metrics[name] == pytest.approx(value, abs=1e-4, nan_ok=True), (about, name)
        mine, its = (tensors_of(results.out, record) for results, record in ((found, made), (expected, alone)))
        assert mine.after.keys() == its.after.keys()
        if its.after:
            share, largest = compare_weights(mine, its, "gpt2")
            assert share <= SINGLE, (about, share, largest)
        outputs, others = one.predictions.outputs, other.predictions.outputs
        if outputs.dtype.kind == "f":
            assert np.abs(outputs - others).max() <= TOLERANCE * max(1.0, np.abs(others).max()), about
        else:
            assert outputs.tolist() == others.tolist(), about
        assert_measured_alike(made, alone)


def assert_measured_alike(made: Record, alone: Record) -> None:
    """What is computed on the texts of all ranks, beside the evaluation."""
    assert (made.retention is None) == (alone.retention is None)
    if made.retention is not None and alone.retention is not None:
        assert made.retention.before == pytest.approx(alone.retention.before, abs=TOLERANCE)
        assert made.retention.after == pytest.approx(alone.retention.after, abs=TOLERANCE)
    assert made.abstention == alone.abstention or made.abstention is not None
    if made.abstention is not None and alone.abstention is not None:
        assert made.abstention.calibration == alone.abstention.calibration
    if alone.ask.offset is not None:
        assert made.ask.offset == pytest.approx(alone.ask.offset, abs=TOLERANCE)


@pytest.mark.slow  # processes that import torch, and runs of 50 steps
def test_processes_together_have_the_results_of_one(backbones: Backbones, tmp_path: Path) -> None:
    contents = studies(backbones, tmp_path)
    assert together(3, carry_out, contents, tmp_path / "several") == [0] * 3
    for content in contents:
        name = content["name"]
        alone = Study.parse(content, "here").run(tmp_path / "one" / name, executor=HereExecutor())
        found = Results.read(tmp_path / "several" / name)
        assert_alike(found, alone)
        for record in found.records:
            assert record.devices is not None
            assert record.devices.count == len(record.devices.rss_peaks) == 3


# An error is said once


@dataclass(frozen=True)
class Notes(Ranks):
    """One of two ranks, which computes with nobody: `given` is what rank 0 gives, and `notes` what ranks have left."""

    given: list[Any] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)
    gathered: list[Any] = field(default_factory=list)

    def from_first(self, value: Any) -> Any:
        return value if self.is_first else self.given.pop(0)

    def gather(self, value: Any) -> list[Any]:
        return [value, *self.gathered]

    def leave_note(self, name: str, text: str) -> None:
        self.notes[name] = text

    def note(self, name: str, seconds: float) -> str | None:
        if name == "told" and seconds > 60 and name not in self.notes:  # rank 0 has ended: torchrun ends the others
            signal.raise_signal(signal.SIGTERM)
        return self.notes.get(name)

    def close(self) -> None:
        pass


LOST = RANK_LOST(step="sum", reason="Connection closed by peer")
UNREAD = InvalidData("run lora: reviews.csv cannot be read", code="data.unreadable", path="reviews.csv")


@pytest.fixture
def run() -> Iterator[Run]:
    before = signal.getsignal(signal.SIGTERM)
    yield Run(backbone="gpt2", task="sst2", method="lora")
    signal.signal(signal.SIGTERM, before)


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def execute(*given: Any, **options: Any) -> Record:
        raise error

    monkeypatch.setattr(torchrun_executor, "execute", execute)


def failure_of_first(ranks: Ranks, run: Run) -> RunFailed:
    executor = TorchrunExecutor(ranks)
    with pytest.raises(RunFailed) as found:
        executor.carry_out(run, Path("out"), "", print)
    executor.close()  # does not wait for ranks that have ended
    return found.value


def test_rank_0_says_the_error_of_the_rank_that_failed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, LOST)
    note = Failed(parts=[f"process 1 of 2: {UNREAD}"], code=UNREAD.code, fields={"path": "reviews.csv"})
    ranks = Notes(0, 2, notes={"error": note.model_dump_json()})
    found = failure_of_first(ranks, run)
    assert str(found) == f"process 1 of 2: {UNREAD}"
    assert (found.fields["cause"], found.fields["of_cause"]) == (UNREAD.code, {"path": "reviews.csv"})
    assert "told" in ranks.notes


@pytest.mark.parametrize("error", [LOST, UNREAD])
def test_rank_0_says_its_own_error_if_no_rank_left_one(
    error: AfinaError, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, error)
    assert failure_of_first(Notes(0, 2), run).fields["cause"] == error.code


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("error", [LOST, UNREAD, KeyboardInterrupt()])
def test_another_rank_says_its_error_only_if_rank_0_has_ended(
    error: BaseException, told: bool, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, error)
    request = CarryOut(run=run, out="out", study="")
    ranks = Notes(1, 2, given=[(request, False)], notes={"told": "lora"} if told else {})
    said: list[AfinaError] = []
    assert follow(ranks, said.append) == (0 if told else 2)
    assert len(said) == (not told)
    assert all(str(error).startswith("process 1 of 2: ") for error in said)
    left = ranks.notes.get("error")
    assert (left is None) == (error is not UNREAD)
    assert left is None or Failed.model_validate_json(left).code == UNREAD.code


def test_every_rank_shares_the_weights_if_rank_0_asks_for_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []
    seen: list[bool] = []
    monkeypatch.setattr(Notes, "from_first", lambda ranks, value: given.append(value) or value)
    monkeypatch.setattr(torchrun_executor, "execute", lambda *_, ranks, **options: seen.append(ranks.shards))
    TorchrunExecutor(Notes(0, 2)).sharding(True).carry_out(run, Path("out"), "", print)
    assert given[0][1] is True
    monkeypatch.setattr(Notes, "from_first", lambda ranks, value: given.pop(0))
    given.append(None)
    assert follow(Notes(1, 2), print) == 0
    assert seen == [True, True]


def test_other_ranks_end_with_rank_0() -> None:
    said: list[str] = []
    assert follow(Notes(1, 2, given=[None]), said.append) == 0
    assert said == []


# Ranks that differ


def test_a_rank_with_other_texts_or_packages_is_refused() -> None:
    split = SimpleNamespace(digest="sha256:a")
    task = SimpleNamespace(**dict.fromkeys(("train", "evaluation", "calibration"), split), abstention=None)
    task.selection = task.unlabelled = None
    given = SimpleNamespace(
        task=task,
        run=SimpleNamespace(key="k"),
        backbone=SimpleNamespace(tokenizer_digest="t"),
        backbone_digest="b",
        lesson=None,
        device=torch.device("cpu"),
        dtype=torch.float32,
        ranks=Notes(0, 2),
    )
    prepared._check_alike(given)  # type: ignore[arg-type]
    facts: list[dict[str, str]] = []
    given.ranks = SimpleNamespace(gather=lambda found: facts.append(found) or [found])
    prepared._check_alike(given)  # type: ignore[arg-type]
    for what in facts[0]:
        other = {**facts[0], what: "another"}
        given.ranks = Notes(0, 3, gathered=[facts[0], other])
        with raises(RunFailed, code="ranks.unlike", rank=2, what=what, found="another"):
            prepared._check_alike(given)  # type: ignore[arg-type]
