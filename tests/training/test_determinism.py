"""The same run gives the same adapter, bit for bit: twice, elsewhere, after other methods, killed and resumed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from afina import METHODS, Backbone, Run, Task
from afina.events import Progress
from afina.methods import make
from afina.models.adapter import Adapter
from afina.models.backbone_spec import files_digest
from afina.studies.runs.execute import execute
from afina.studies.runs.output_directory import OutputDirectory
from afina.studies.runs.record import Record
from afina.training.checkpoint import Account
from afina.training.fit import Fit
from afina.training.settings import Training
from fakes import Backbones, changed, encoded, family_of, fit_of, opened, sentences
from grid import some_slow

STEPS = 9


class Killed(Exception):
    """Stands for the end of the process."""


def kill_at(step: int) -> Callable[[Progress], None]:
    """A listener that stops the run when it has taken `step` steps, before they could be kept."""

    def listen(progress: Progress) -> None:
        if progress.phase == "train" and progress.step == step:
            raise Killed

    return listen


def executed(run: Run, out: Path) -> tuple[Record, list[int]]:
    """The record of a run, and the steps that were taken."""
    steps: list[int] = []
    return run.execute(out, lambda told: steps.append(told.step) if told.phase == "train" else None), steps


@pytest.fixture(autouse=True)
def _checkpoint_after_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long writing one takes."""
    monkeypatch.setattr("afina.training.fit.CHECKPOINT_SHARE", float("inf"))


@pytest.fixture(scope="module")
def run(backbones: Backbones, toy: str) -> Callable[..., Run]:
    """A run over an epoch's end, with dropout in the body and in the adapter."""
    data_digest = Task.load(toy).data_digest

    def make_run(method: str = "lora", family: str = "", seed: int = 0, **changes: Any) -> Run:
        family = family or family_of(method)
        settings = {"max_steps": STEPS, "batch_size": 16, "dtype": "float32", "checkpoint_seconds": 0.0} | changes
        training = Training(**settings)
        made = Run(backbone=str(backbones.path(family)), task=toy, method=method, training=training, seed=seed)
        # as carrying it out does, which names its files
        return made.with_digests(data_digest=data_digest, backbone_files=files_digest(made.backbone))

    return make_run


@pytest.fixture(scope="module")
def alone(run: Callable[..., Run], tmp_path_factory: pytest.TempPathFactory) -> Record:
    """Of the run of LoRA, left alone."""
    return run("lora").execute(tmp_path_factory.mktemp("alone"))


@pytest.fixture
def fit(backbones: Backbones) -> Callable[..., Fit]:
    def fresh(name: str) -> Fit:
        backbone = Backbone.load(str(backbones.path(family_of(name))))
        method = make(name, {"dropout": 0.1} if name == "lora" else None).for_family(backbone.family)
        data = encoded(backbone, sentences(50))
        return fit_of(opened(backbone, method), method, data, steps=STEPS, checkpoint_seconds=0.0)

    return fresh


def test_dropout_is_on_in_these_tests(fit: Callable[..., Fit]) -> None:
    """Otherwise nothing below would show a dropout stream that was not restored."""
    outcomes = []
    for seed in (0, 1):
        one = changed(fit("lora"), seed=seed)  # the order stays: the loader has its own
        one.advance()
        outcomes.append(one.account.losses)
    assert outcomes[0] != outcomes[1]


BESIDE_OTHERS = ("full", "lora", "vera", "prefix", "prelayer", "adapter", "head")
ONCE = [(name, ("float32", "bfloat16")[i % 2]) for i, name in enumerate(METHODS) if name not in BESIDE_OTHERS]


@pytest.mark.parametrize(
    ("method", "dtype"),
    some_slow([("vera", "float32"), ("full", "bfloat16"), *ONCE], quick=[("vera", "float32")]),
)
def test_the_same_run_twice_gives_the_same_digest(
    run: Callable[..., Run], tmp_path: Path, method: str, dtype: str
) -> None:
    first, second = (run(method, dtype=dtype).execute(tmp_path / name) for name in "ab")
    assert first.digest == second.digest
    assert first.losses == second.losses
    assert first.predictions_digest == second.predictions_digest


def test_another_seed_gives_another_digest(run: Callable[..., Run], tmp_path: Path) -> None:
    first, second = (run("lora", seed=seed, max_steps=2).execute(tmp_path) for seed in (0, 1))
    assert first.digest != second.digest


@pytest.mark.slow
def test_another_process_with_another_hash_seed_gives_the_same_digest(run: Callable[..., Run], tmp_path: Path) -> None:
    chosen = [run("lora", family="llama"), run("full")]
    script = (
        "import json, sys; from afina import Run\n"
        "for line in sys.stdin: print(Run.model_validate_json(line).execute(sys.argv[1]).digest)\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "there")],
        input="\n".join(one.model_dump_json() for one in chosen),
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "12345"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.split() == [one.execute(tmp_path / "here").digest for one in chosen]


@pytest.mark.slow
def test_a_result_does_not_depend_on_what_ran_before_in_the_process(run: Callable[..., Run], tmp_path: Path) -> None:
    alone = {name: run(name).execute(tmp_path / f"alone-{name}").digest for name in BESIDE_OTHERS}
    torch.manual_seed(4711)
    torch.rand(17)
    after_others = {name: run(name).execute(tmp_path / "together").digest for name in reversed(BESIDE_OTHERS)}
    assert after_others == alone


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    some_slow(
        [*(key for key, kind in METHODS.items() if not (kind().trains_nothing or kind.is_fitted)), "lora+prefix"],
        quick=["full", "vera", "lora+prefix"],
    ),
)
def test_resuming_from_a_checkpoint_at_any_step_ends_in_the_same_tensors_and_losses(
    fit: Callable[..., Fit], tmp_path: Path, name: str
) -> None:
    whole = fit(name)

    def keep(account: Account) -> None:
        whole.checkpoint(tmp_path / str(account.step), "key")

    whole.advance(keep=keep)
    expected = whole.account
    kept = sorted(int(path.name) for path in tmp_path.iterdir())
    assert kept == list(range(1, STEPS))  # never after the last step
    for step in (1, 6, STEPS - 1):
        resumed = fit(name)
        torch.rand(step)  # a generator elsewhere in its stream
        resumed.resume(tmp_path / str(step), "key")
        assert resumed.account.step == step
        assert resumed.account.losses == expected.losses[:step]
        resumed.advance()
        account = resumed.account
        assert account.losses == expected.losses
        assert (account.step, account.tokens) == (STEPS, expected.tokens)
        for key, parameter in resumed.parameters.items():
            assert torch.equal(parameter, whole.parameters[key]), f"{key} from step {step}"


@pytest.mark.parametrize(
    ("method", "dtype"),
    some_slow(
        [("lora", "float32"), ("head", "float32"), ("setfit", "float32"), ("lora+prefix", "bfloat16")],
        quick=[("lora", "float32")],
    ),
)
def test_a_run_stopped_twice_and_resumed_gives_the_digest_of_one_left_alone(
    run: Callable[..., Run], tmp_path: Path, method: str, dtype: str
) -> None:
    chosen = run(method, dtype=dtype)
    expected = chosen.execute(tmp_path / "alone")
    path = OutputDirectory(tmp_path / "stopped").checkpoint(chosen.label)
    for step in (3, 7):
        with pytest.raises(Killed):
            execute(chosen, tmp_path / "stopped", listen=kill_at(step))
        assert path.exists()
    found, steps = executed(chosen, tmp_path / "stopped")
    assert steps == [7, 8, 9]  # six steps were kept
    assert found.digest == expected.digest
    assert found.losses == expected.losses
    assert (found.steps, found.tokens) == (expected.steps, expected.tokens)
    assert not path.exists()


@pytest.mark.slow
def test_the_checkpoint_of_another_run_is_as_none(run: Callable[..., Run], alone: Record, tmp_path: Path) -> None:
    chosen, foreign = run("lora"), run("lora", seed=1)
    others = [{"learning_rate": 1e-2}, {"max_steps": STEPS + 1}, {"method": "prelayer"}, {"family": "llama"}]
    assert len({chosen.key, foreign.key, *(run(**other).key for other in others)}) == 2 + len(others)
    with pytest.raises(Killed):
        execute(foreign, tmp_path / "foreign", listen=kill_at(5))
    path = OutputDirectory(tmp_path / "here").checkpoint(chosen.label)
    path.parent.mkdir(parents=True)
    shutil.copy(OutputDirectory(tmp_path / "foreign").checkpoint(foreign.label), path)
    assert execute(chosen, tmp_path / "here").digest == alone.digest


def test_loading_a_checkpoint_that_does_not_fit_or_is_damaged_changes_nothing(
    fit: Callable[..., Fit], tmp_path: Path
) -> None:
    lora, full = fit("lora"), fit("full")
    lora.advance(keep=lambda _: lora.checkpoint(tmp_path / "lora", "key"))
    before = {name: parameter.detach().clone() for name, parameter in full.parameters.items()}
    for key in ("key", "another key"):
        full.resume(tmp_path / "lora", key)
        assert full.account == Account()
        assert not full.optimizer.state
        assert all(torch.equal(parameter, before[name]) for name, parameter in full.parameters.items())
    full.resume(tmp_path / "absent", "key")
    assert full.account == Account()
    kept, again = (tmp_path / "lora").read_bytes(), fit("lora")
    for damaged in (kept[:-100], b"no checkpoint at all" * 100, b""):
        (tmp_path / "lora").write_bytes(damaged)
        again.resume(tmp_path / "lora", "key")
        assert again.account == Account()
    (tmp_path / "lora").write_bytes(kept)
    again.resume(tmp_path / "lora", "key")
    assert again.account.step == STEPS - 1


@pytest.mark.slow
def test_how_often_a_run_is_kept_changes_neither_its_key_nor_its_result(
    run: Callable[..., Run], alone: Record, tmp_path: Path
) -> None:
    often, seldom = run("lora"), run("lora", checkpoint_seconds=60.0)
    assert often.key == seldom.key
    assert alone.digest == seldom.execute(tmp_path / "seldom").digest


def test_bfloat16_training_saves_float32_tensors_and_leaves_frozen_weights_out(
    run: Callable[..., Run], tmp_path: Path
) -> None:
    for method in ("full", "lora"):
        record = run(method, dtype="bfloat16", max_steps=2).execute(tmp_path)
        tensors = Adapter.load(tmp_path / record.adapter).tensors
        assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
        assert any(not torch.equal(tensor, tensor.bfloat16().float()) for tensor in tensors.values())
