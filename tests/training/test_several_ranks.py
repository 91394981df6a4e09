"""Several processes that train together take the steps of one process."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

import language
import tagging
from afina import Backbone
from afina.data.batch import MicroBatchLimits
from afina.methods import make
from afina.methods.attachment import attach
from afina.models.language_model import open_model
from afina.models.objectives import Classes
from afina.ranks import ALONE, Ranks
from afina.training.fit import Fit
from fakes import Backbones, encoded, fit_of, opened, sentences
from together import together
from trainer import TOLERANCE, Outcome, by_afina, compare, loss_difference, well_conditioned, without_dropout

DECODER, ENCODER = "gpt2", "bert"
STEPS = 50
UPPER = "classes, upper half"

CASES = {
    **{f"classes {name}": ("classes", name, {}) for name in ("lora", "full", "setfit")},
    "classes head by steps": ("classes", "head", {}),
    "classes fitted head": ("classes", "linear_probe", {}),
    "classes in parts": ("classes", "lora", {"examples": 3}),
    "classes, averaged and pulled": ("classes", "full", {"average": 0.5, "pull": 0.1}),
    UPPER: ("classes", "lora", {"layers": "upper half"}),
    "texts full": ("texts", "full", {}),
    "entities full": ("entities", "full", {}),
    "int8 lora": ("int8", "lora", {}),
}
"""Kind of targets or of frozen weights, method, and settings of the method and of the training."""


def session(ranks: Ranks, paths: Mapping[str, str], case: str, steps: int = STEPS) -> Fit:
    kind, name, settings = CASES[case]
    settings = dict(settings)
    backbone = Backbone.load(paths[ENCODER if name == "setfit" else DECODER])
    given = {one: settings.pop(one) for one in ("layers",) if one in settings}
    method = make(name, {"dropout": 0.0} | given if name == "lora" else None).for_family(backbone.family)
    limits = MicroBatchLimits(settings.pop("examples", 1 << 30), ranks=ranks)
    recipe = {"steps": steps, "learning_rate": 1e-3, "at_once": limits, "checkpoint_seconds": 0.0} | settings
    if kind == "texts":
        return language.fit_of(language.opened(backbone, method), method, language.loader(backbone, 40), **recipe)
    if kind == "entities":
        tagger = without_dropout(tagging.opened(backbone, method))
        return tagging.fit_of(tagger, method, tagging.loader(backbone, 40), **recipe)
    if kind == "int8":
        classifier = open_model(backbone, ("bad", "good"), 0, Classes(("bad", "good")).opening, precision="int8")
        torch.manual_seed(0)
        attach(classifier, method)
    else:
        classifier = opened(backbone, method)
    return fit_of(classifier, method, encoded(backbone, sentences(40)), **recipe)


def trained(ranks: Ranks, paths: Mapping[str, str], cases: list[str]) -> dict[str, Outcome]:
    return {case: by_afina(session(ranks, paths, case)) for case in cases}


@pytest.fixture(scope="module")
def paths(backbones: Backbones) -> dict[str, str]:
    return {family: str(backbones.path(family, dropout=0.0)) for family in (DECODER, ENCODER)}


@pytest.fixture(scope="module")
def alone(paths: Mapping[str, str]) -> Mapping[str, Outcome]:
    return trained(ALONE, paths, [*CASES])


@pytest.mark.slow
def test_after_fifty_steps_three_have_the_weights_of_one_process(
    paths: Mapping[str, str], alone: Mapping[str, Outcome]
) -> None:
    for found in together(3, trained, paths, [*CASES]):
        for case, expected in alone.items():
            assert len(expected.losses) == (0 if case == "classes fitted head" else STEPS)
            compare(found[case], expected, ENCODER if "setfit" in case else DECODER)


def stopped_after_ten(ranks: Ranks, paths: Mapping[str, str], place: str) -> None:
    fit = well_conditioned(session(ranks, paths, UPPER))
    fit.advance(10)
    fit.checkpoint(Path(place), "key")


def continued(ranks: Ranks, paths: Mapping[str, str], place: str) -> tuple[int, Outcome]:
    fit = session(ranks, paths, UPPER)
    fit.resume(Path(place), "key")
    return fit.account.step, by_afina(fit)


@pytest.mark.slow
def test_another_number_of_processes_continues_a_run(
    paths: Mapping[str, str], alone: Mapping[str, Outcome], tmp_path: Path
) -> None:
    place = str(tmp_path / "checkpoint")
    together(2, stopped_after_ten, paths, place)
    step, found = continued(ALONE, paths, place)
    assert step == 10
    assert loss_difference(found, alone[UPPER]) <= TOLERANCE
    stopped_after_ten(ALONE, paths, place)
    for step, found in together(2, continued, paths, place):
        assert step == 10
        assert loss_difference(found, alone[UPPER]) <= TOLERANCE
