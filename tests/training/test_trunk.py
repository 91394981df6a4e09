"""Where only upper blocks train, the frozen lower blocks compute each text once, and the training is the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from afina import Adapter, Backbone
from afina.data.batch import MicroBatchLimits, pack
from afina.data.reading_options import ReadingOptions
from afina.data.token_cache import EncodedSplit
from afina.data.tokenize import encode
from afina.errors import InvalidStudy
from afina.events import Progress
from afina.methods import make
from afina.models.architectures import ARCHITECTURES, architecture_of, blocks_of
from afina.models.trunk import Trunk, is_random
from afina.report.details.plans import forecast_table
from afina.studies.runs.execute import execute
from afina.studies.runs.forecast import encoded as encoded_task
from afina.studies.runs.forecast import forecast_run
from afina.studies.runs.spec import Ask
from afina.training import trunk_inputs
from afina.training.fit import Fit, Pace
from afina.training.inputs import PackedInputs
from afina.training.trunk_inputs import TrunkInputs
from command import Command
from fakes import Backbones, Runs, difference, encoded, fit_of, opened, predict, sentences, write_csv
from full_disk import no_file_above
from grid import by_family
from raises import raises

ROWS = sentences(30)
"""Four batches an epoch, the last of six."""


def session(backbone: Backbone, name: str = "lora", given: dict[str, Any] | None = None, **changes: Any) -> Fit:
    """Three epochs of a method that trains the upper of two blocks; the lower block has no dropout."""
    method = make(name, {"layers": 1} if given is None else given).for_family(backbone.family)
    data = encoded(backbone, ROWS)
    return fit_of(opened(backbone, method), method, data, **({"steps": 12, "trunk_dropout": False} | changes))


def weights(fit: Fit) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in fit.weights.trained.items()}


def assert_same_bits(one: Fit, other: Fit) -> None:
    assert one.account.losses == other.account.losses
    assert all(torch.equal(tensor, weights(other)[name]) for name, tensor in weights(one).items())


def assert_same_but_for_rounding(one: Fit, other: Fit) -> None:
    """Losses, outputs and nearly all weights within 1e-5: Adam turns rounding of a gradient near 0 into a step."""
    np.testing.assert_allclose(one.account.losses, other.account.losses, rtol=1e-5, atol=1e-6)
    packed = pack([one.loader.encoded[index] for index in range(8)])
    with torch.inference_mode():
        found, expected = (fit.classifier.eval()(packed) for fit in (one, other))
    assert difference(found, expected) <= 1e-5
    apart = [(each - weights(other)[name]).abs().flatten() / each.abs().max() for name, each in weights(one).items()]
    assert (torch.cat(apart) > 1e-5).float().mean() <= 2e-3


def lowest(fit: Fit) -> list[int]:
    """A list that gets the number of tokens of each call that computes the lowest block of a session's model."""
    seen: list[int] = []
    body = fit.classifier.body
    attention = blocks_of(body)[0].get_submodule(architecture_of(body).block.attention)
    attention.register_forward_hook(lambda _, given, output: seen.append(output[0].shape[1]))
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("family", by_family(ARCHITECTURES, set(ARCHITECTURES) - {"llama"}))
def test_the_training_is_that_without_kept_outputs(backbones: Backbones, family: str) -> None:
    backbone = Backbone.load(str(backbones.path(family)))
    limits = MicroBatchLimits(examples=5, tokens=60)
    kept, plain = (session(backbone, trunk=trunk, at_once=limits) for trunk in ("kept", "recomputed"))
    held_out = EncodedSplit(*encoded(backbone, sentences(10, seed=1)), digest="")
    seen = lowest(kept)
    for stop in (2, 5, 12):
        kept.advance(stop)
        assert kept.score(held_out, "accuracy", predict).step == stop
    plain.advance()
    tokens = int(kept.loader.encoded.lengths.sum())
    assert sum(seen) == tokens + 3 * int(held_out.encoded.lengths.sum())
    assert_same_but_for_rounding(kept, plain)
    assert kept.account.tokens == plain.account.tokens == 3 * tokens
    assert kept.inputs.trunk_use is not None
    assert kept.inputs.trunk_use.place == "memory"


@pytest.mark.parametrize("family", by_family(ARCHITECTURES, set(ARCHITECTURES) - {"gpt2", "llama", "bert"}))
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_trunk_is_random_if_its_outputs_differ_in_training(backbones: Backbones, family: str, dropout: float) -> None:
    backbone, method = Backbone.load(str(backbones.path(family, dropout=dropout))), make("last", {"blocks": 1})
    classifier, packed = opened(backbone, method), pack([np.arange(1, 6), np.arange(6, 9)])
    trunk = Trunk(classifier, 1)
    resting = trunk.states(packed)
    classifier.train()
    one, other = trunk.states(packed), trunk.states(packed)
    assert is_random(classifier.body, 1) is (not torch.equal(one, other)) is (dropout > 0)
    trunk.rest()
    assert torch.equal(trunk.states(packed), resting)


@pytest.mark.parametrize(
    ("name", "given", "changes"),
    [
        ("last", {"blocks": 1}, {"checkpointing": True}),
        pytest.param("adapter", {"layers": 1}, {"checkpointing": True}, marks=pytest.mark.slow),
        pytest.param("ia3", {"layers": "upper half"}, {"average": 0.5}, marks=pytest.mark.slow),
        ("lora+layernorm", {"lora": {"layers": 1}}, None),
    ],
)
def test_every_method_that_trains_upper_blocks_only_begins_above_the_trunk(
    llama: Backbone, name: str, given: dict[str, Any], changes: dict[str, Any] | None
) -> None:
    if changes is None:  # norms of all blocks train
        with raises(InvalidStudy, code="option.inapplicable", method=name, option="trunk"):
            session(llama, name, given, trunk="kept")
        return
    kept, plain = (session(llama, name, given, trunk=trunk, **changes) for trunk in ("kept", "recomputed"))
    kept.advance()
    plain.advance()
    assert_same_but_for_rounding(kept, plain)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_paused_resumed_and_in_a_file_it_ends_in_the_same_bits(
    llama: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    whole, paused = session(llama, dtype=dtype), session(llama, dtype=dtype)
    path, kept = tmp_path / "checkpoints", (2, 9)
    for stop in (*kept, 12):
        paused.advance(stop)
        paused.checkpoint(path / str(stop), "key")
    whole.advance()
    assert_same_bits(paused, whole)
    monkeypatch.setattr(trunk_inputs, "MOST_IN_MEMORY", 0)
    for step in kept:
        resumed = session(llama, dtype=dtype, scratch=tmp_path / "scratch")
        resumed.resume(path / str(step), "key")
        resumed.advance()
        assert_same_bits(resumed, whole)
        assert resumed.inputs.trunk_use is not None
        assert resumed.inputs.trunk_use.place == "file"
        assert resumed.inputs.held == ()
        assert not list((tmp_path / "scratch").iterdir())


@pytest.mark.slow
def test_pairs_of_texts_keep_their_token_types(backbones: Backbones) -> None:
    backbone, method = Backbone.load(str(backbones.path("bert"))), make("lora", {"layers": 1}).for_family("bert")
    texts = [text for text, _ in ROWS]
    tokens = encode(backbone.tokenizer, texts, [text[:12] for text in reversed(texts)], max_length=backbone.longest)
    data = tokens, np.array([label for _, label in ROWS])
    settings = {"steps": 12, "trunk_dropout": False}
    kept, plain = (
        fit_of(opened(backbone, method), method, data, trunk=trunk, **settings) for trunk in ("kept", "recomputed")
    )
    kept.advance()
    plain.advance()
    assert_same_but_for_rounding(kept, plain)


def test_too_little_memory_and_a_full_disk_give_the_ordinary_training_and_a_sentence(
    llama: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = session(llama, trunk="recomputed")
    plain.advance()
    monkeypatch.setattr("afina.meter.memory_available", lambda: 1000)
    with no_file_above(1000):
        full = session(llama, scratch=tmp_path)
    for fit in (full, session(llama)):  # the second has no directory for a file
        fit.advance()
        assert_same_bits(fit, plain)
        use = fit.inputs.trunk_use
        assert use is not None
        assert use.place is None
        assert "nor the disk has room" in use.note
    assert session(llama, scratch=tmp_path).inputs.trunk_use.place == "file"  # type: ignore[union-attr]


def test_by_default_outputs_are_kept_only_if_layers_say_so_and_nothing_is_random(
    gpt2: Backbone, backbones: Backbones
) -> None:
    still = Backbone.load(str(backbones.path("gpt2", dropout=0.0)))
    usual = {"trunk_dropout": True}
    assert type(session(still, "last", {"blocks": 1}, **usual).inputs) is PackedInputs
    assert type(session(still, "lora", {}, **usual).inputs) is PackedInputs
    for backbone, steps, place, reason in (
        (still, 12, "memory", ""),
        (still, 4, None, "each text is in one step only"),
        (gpt2, 12, None, "the blocks have dropout, which `trunk_dropout` = false turns off"),
    ):
        inputs = session(backbone, steps=steps, **usual).inputs
        assert isinstance(inputs, TrunkInputs)
        assert (inputs.trunk_use.place, inputs.trunk_use.reason) == (place, reason)
    ordinary = session(gpt2, steps=8, **usual)
    other = session(gpt2, steps=8, trunk="recomputed", **usual)
    ordinary.advance()
    other.advance()
    assert_same_bits(ordinary, other)


@pytest.mark.parametrize(
    ("name", "given", "changes", "option"),
    [
        ("lora", {}, {"trunk": "kept", "trunk_dropout": True}, "trunk"),
        ("head", {}, {}, "trunk_dropout"),
        ("full", {}, {}, "trunk_dropout"),
        ("lora", {"layers": 1}, {"trunk": "kept", "trunk_dropout": True}, None),
    ],
)
def test_a_trunk_that_cannot_be_is_an_error(
    gpt2: Backbone, name: str, given: dict[str, Any], changes: dict[str, Any], option: str | None
) -> None:
    fields = {"blocks": 1} if option is None else {"option": option}
    with raises(InvalidStudy, code="option.inapplicable", method=name, **fields):
        session(gpt2, name, given, **changes)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "changes"),
    [("gpt2", {}), ("llama", {"dtype": "bfloat16"}), ("bert", {"precision": "int8"}), ("llama", {"token_budget": 60})],
)
def test_a_run_is_foreseen_and_says_what_it_kept(
    runs: Runs, tmp_path: Path, family: str, changes: dict[str, Any]
) -> None:
    training = {"trunk": "kept", "trunk_dropout": False, "max_steps": None, "epochs": 3} | changes
    run = runs.run(family, "lora", {"layers": 1}, **training)
    notes: list[str] = []
    one = forecast_run(run, calibrate=False)
    record = run.execute(tmp_path, lambda told: notes.append(told.note) if told.phase == "trunk" else None)
    assert one.state_bytes == record.memory.state_bytes
    assert one.activation_bytes == record.memory.activation_bytes
    assert record.trunk is not None
    assert one.trunk_bytes == record.trunk.bytes > 0
    assert one.scratch_bytes == 0
    assert (record.trunk.blocks, record.trunk.place, record.trunk.dropout) == (1, "memory", False)
    (note,) = notes
    assert note.startswith("computes 1 frozen lower block once for each text, and keeps the outputs in memory")
    assert note.endswith("the dropout below the trained blocks is off")
    manifest = Adapter.load(tmp_path / record.adapter).manifest
    assert manifest.training["trunk"] == "kept"
    again = run.execute(tmp_path / "again")
    assert again.digest == record.digest
    ordinary = run.model_copy(update={"training": run.training.model_copy(update={"trunk": "recomputed"})})
    assert ordinary.key != run.key
    found = ordinary.execute(tmp_path / "ordinary").losses
    np.testing.assert_allclose(found, record.losses, rtol=1e-5 if run.training.dtype == "float32" else 2e-2)


@pytest.mark.slow
def test_a_plan_foresees_the_temporary_file_and_the_time_of_both_parts(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = {"trunk_dropout": False, "max_steps": None, "epochs": 3}
    run, everything = (runs.run("llama", "lora", given, **(training if given else {})) for given in ({"layers": 1}, {}))
    small = forecast_run(run, calibrate=False)
    monkeypatch.setattr(trunk_inputs, "MOST_IN_MEMORY", 0)
    one = forecast_run(run, calibrate=False)
    assert one.scratch_bytes == one.trunk_bytes == small.trunk_bytes > 0
    assert one.state_bytes == small.state_bytes - small.trunk_bytes
    assert one.activation_bytes == small.activation_bytes
    assert "temporary file has the outputs of frozen lower blocks" in " ".join(forecast_table([one]).notes)
    assert "State includes the outputs of frozen lower blocks" in " ".join(forecast_table([small]).notes)
    assert "trunk_bytes" not in forecast_run(everything, calibrate=False).summary
    monkeypatch.setattr("afina.studies.runs.forecast.seconds_per_token", lambda *_: Pace(0.25, 2.0))
    tokens = encoded_task(run).train.encoded.lengths.sum()
    assert forecast_run(run).train_seconds == (3 * 0.25 + 2.0) * tokens


@pytest.mark.slow
def test_the_command_plan_takes_layers(afina: Command, backbones: Backbones, toy: str) -> None:
    path = str(backbones.path("llama", dropout=0.0))
    given = ("plan", "--backbone", path, "--task", toy, "--epochs", "2", "--no-calibrate", "--json")
    planned = afina(*given, "--layers", "1").object()["methods"]
    assert set(planned) == {"lora", "ia3", "adapter"}
    everything = afina(*given, "--method", "lora").object()["methods"]["lora"]
    assert planned["lora"]["body"] == everything["body"] / 2
    assert planned["lora"]["trunk_bytes"] > 0
    assert "trunk_bytes" not in everything
    assert "layers is 3, but this model has 2" in afina(*given, "--method", "lora", "--layers", "3").error
    assert "layers" in afina(*given, "--method", "full", "--layers", "1").error


def test_the_pace_of_steps_and_of_outputs_are_measured_apart(llama: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(np.arange(1000.0))
    fit = session(llama)
    monkeypatch.setattr("afina.meter.now", lambda: next(clock))
    pace = fit.pace(1, 2)
    lengths = fit.loader.encoded.lengths
    _, second, third, fourth = (int(lengths[chosen].sum()) for chosen in fit.loader.chosen(0, 4))
    assert pace == Pace(pytest.approx(4 / (second + third)), pytest.approx(2 / (second + third + fourth)))


class _Killed(Exception):
    """Stands for the end of the process."""


@pytest.mark.slow
def test_killed_in_any_epoch_a_run_ends_in_the_same_adapter(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("afina.training.fit.CHECKPOINT_SHARE", float("inf"))
    training = {"trunk_dropout": False, "max_steps": None, "epochs": 3, "checkpoint_seconds": 0}
    run = runs.run("llama", "lora", {"layers": 1}, **training)
    whole = run.execute(tmp_path / "whole")
    for step in (2, whole.steps // 2, whole.steps - 1):

        def listen(told: Progress, step: int = step) -> None:
            if told.phase == "train" and told.step == step:
                raise _Killed

        out, taken = tmp_path / str(step), list[int]()
        with pytest.raises(_Killed):
            execute(run, out, listen=listen)
        record = run.execute(out, lambda told: taken.append(told.step) if told.phase == "train" else None)  # noqa: B023
        assert taken[0] == step
        assert record.digest == whole.digest
        assert record.losses == whole.losses


@pytest.mark.slow
def test_a_task_of_texts_keeps_outputs_too(runs: Runs, tmp_path: Path) -> None:
    rows = [(text, " ".join(text.split()[:3])) for text, _ in sentences(40)]
    training = {"trunk_dropout": False, "max_steps": None, "epochs": 2}
    changes = {
        "task": str(write_csv(tmp_path / "rows.csv", rows, ("text", "first"))),
        "data": ReadingOptions(kind="text", label="first"),
        "ask": Ask(),
    }
    run = runs.run("llama", "lora", {"layers": 1}, **training).model_copy(update=changes)
    record = run.execute(tmp_path)
    plain = run.model_copy(update={"training": run.training.model_copy(update={"trunk": "recomputed"})})
    assert record.trunk is not None
    assert record.trunk.place == "memory"
    np.testing.assert_allclose(record.losses, plain.execute(tmp_path / "plain").losses, rtol=1e-5)
