"""With several processes, dropout masks depend on the texts alone: the gradients are those of the whole batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import language
import tagging
from afina import Backbone
from afina.data.batch import MicroBatchLimits
from afina.methods import make
from afina.methods.method import Method
from afina.models.architectures import ARCHITECTURES
from afina.ranks import ALONE, Ranks
from afina.training.fit import Fit, checkpoint_blocks
from by_text import PARTS, TOLERANCE, WHOLE, assert_by_text, assert_close, gradients
from fakes import Backbones, encoded, fit_of, opened, sentences, serves
from grid import some_slow, thinned
from together import together
from trainer import BEYOND, MOST, Outcome, compare_weights, snapshot, well_conditioned


def dropping(name: str, settings: dict[str, Any] | None = None) -> Method:
    return make(name, {"dropout": 0.1, **(settings or {})} if name in ("lora", "vera") else settings)


def session(backbones: Backbones, family: str, name: str, settings: dict[str, Any] | None = None, **given: Any) -> Fit:
    backbone = Backbone.load(str(backbones.path(family, **given)))
    method = dropping(name, settings).for_backbone(backbone)
    return fit_of(opened(backbone, method), method, encoded(backbone, sentences(9), method.takes_positions))


METHODS = ("last", "layernorm", "prelayer", "full", "lora", "vera", "prefix", "prompt", "adapter", "ia3", "bitfit")
CASES = [case for case in thinned(ARCHITECTURES, METHODS, whole=("gpt2",), share=6) if serves(*case)]


@pytest.mark.parametrize(
    ("family", "name"), some_slow([*CASES, ("bert", "full")], [("gpt2", "lora"), ("bert", "full")])
)
def test_the_parts_of_a_batch_have_the_gradients_of_the_whole_batch(
    backbones: Backbones, family: str, name: str
) -> None:
    assert_by_text(session(backbones, family, name))


@pytest.mark.parametrize(("family", "name"), [pytest.param("gpt2", "full", marks=pytest.mark.slow), ("bert", "lora")])
def test_activation_checkpointing_draws_the_same_masks_again(backbones: Backbones, family: str, name: str) -> None:
    plain, checkpointed = session(backbones, family, name), session(backbones, family, name)
    checkpoint_blocks(checkpointed.classifier.body)
    ranks, limits = PARTS["3 ranks with micro-batches"]
    for of, given in ((WHOLE, {}), (ranks, limits)):
        assert_close(gradients(checkpointed, of, **given), gradients(plain, of, **given))


@pytest.mark.parametrize("family", ["bert", pytest.param("roberta", marks=pytest.mark.slow)])
def test_pairs_keep_their_masks(backbones: Backbones, family: str) -> None:
    assert_by_text(session(backbones, family, "setfit"))


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("gpt2", "lora"),
        pytest.param("llama", "full", marks=pytest.mark.slow),
        pytest.param("gpt2", "prefix", marks=pytest.mark.slow),
    ],
)
def test_texts_to_write_keep_their_masks(backbones: Backbones, family: str, name: str) -> None:
    backbone = Backbone.load(str(backbones.path(family)))
    method = dropping(name).for_family(family)
    batches = language.loader(backbone, 9, taken=method.takes_positions)
    assert_by_text(language.fit_of(language.opened(backbone, method), method, batches))


TAGGED = [
    case
    for case in thinned(ARCHITECTURES, ("lora", "full", "prefix"))
    if serves(*case) and ARCHITECTURES[case[0]].token_head
]


@pytest.mark.parametrize(("family", "name"), some_slow(TAGGED, [("gpt2", "lora")]))
def test_the_words_of_entities_keep_their_masks_in_windows(backbones: Backbones, family: str, name: str) -> None:
    backbone = Backbone.load(str(backbones.path(family)))
    method = dropping(name).for_opening(tagging.OBJECTIVE.opening).for_backbone(backbone)
    batches = tagging.loader(backbone, 9, taken=method.takes_positions, longest=12)
    assert_by_text(tagging.fit_of(tagging.opened(backbone, method), method, batches))


def trained(ranks: Ranks, paths: dict[str, str], kept: str, stop: int | None = None) -> dict[str, Outcome]:
    """Trainings with dropout that continue from their checkpoints in a directory; one is kept after the step `stop`."""
    found = {}
    for family, name in (("gpt2", "lora"), ("bert", "full"), ("bert", "setfit")):
        backbone = Backbone.load(paths[family])
        method = dropping(name).for_backbone(backbone)
        limits = MicroBatchLimits(examples=3, ranks=ranks)
        texts = encoded(backbone, sentences(24))
        fit = well_conditioned(fit_of(opened(backbone, method), method, texts, at_once=limits, steps=6))
        file = Path(kept) / f"{family}-{name}"
        fit.resume(file, "key")
        fit.advance(stop)
        if stop is not None:
            fit.checkpoint(file, "key")
        found[file.name] = Outcome(fit.account.losses, after=snapshot(fit.parameters))
    return found


@pytest.mark.slow
def test_three_processes_train_as_two_whose_training_one_process_continues(
    backbones: Backbones, tmp_path: Path
) -> None:
    paths = {family: str(backbones.path(family)) for family in ("gpt2", "bert")}
    none = str(tmp_path / "none")
    three = together(3, trained, paths, none)
    together(2, trained, paths, str(tmp_path), 3)
    resumed, alone = trained(ALONE, paths, str(tmp_path)), trained(ALONE, paths, none)
    for case, expected in three[0].items():
        assert len(expected.losses) == 6
        for found in (*three[1:], resumed):
            assert found[case].losses == pytest.approx(expected.losses, rel=TOLERANCE)
            share, largest = compare_weights(found[case], expected, case.partition("-")[0])
            assert share <= BEYOND
            assert largest < MOST
        assert alone[case].losses != pytest.approx(expected.losses, rel=1e-3)  # one process draws other masks
