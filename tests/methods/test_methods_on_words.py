"""Every method that trains works on a token classifier: it starts without effect, trains, and is restored."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from afina import METHODS, Backbone
from afina.data.kinds import ENTITIES
from afina.errors import InvalidStudy
from afina.methods import make
from fakes import Backbones, difference, family_of
from grid import some_slow
from raises import raises
from tagging import OBJECTIVE, fit_of, loader, logits_of, opened

GIVEN: dict[str, dict[str, Any]] = {"peft": {"type": "MISS", "settings": {"r": 4}}, "vera": {"r": 8}}
FAMILY = {"peft": "llama", "lora": "bert", "full": "modernbert", "adapter": "distilbert"}
ADAPTING = {name: kind for name, kind in METHODS.items() if not kind.asks_endpoint and kind.head != "words"}
TRAINING = [name for name, kind in ADAPTING.items() if kind.kinds is None or ENTITIES in kind.kinds]


@pytest.mark.filterwarnings("ignore:Specified to not save:UserWarning", "ignore:Unsupported layer type:UserWarning")
@pytest.mark.parametrize("name", some_slow(TRAINING, {"ia3", "prefix"}))
def test_a_method_trains_on_words_and_its_state_gives_the_same_logits(backbones: Backbones, name: str) -> None:
    family = FAMILY.get(name, family_of(name))
    backbone = Backbone.load(str(backbones.path(family)))
    method = make(name, GIVEN.get(name)).for_opening(OBJECTIVE.opening).for_backbone(backbone)
    batches = loader(backbone, 16, taken=method.takes_positions)
    fit = fit_of(opened(backbone, method), method, batches, steps=4)
    before = logits_of(fit.classifier, batches)
    fit.advance()
    after = logits_of(fit.classifier, batches)
    if not method.trains_nothing:
        assert difference(after, before) > 1e-4
    state = {key: tensor.detach().clone() for key, tensor in method.state(fit.classifier.model).items()}
    again = opened(backbone, method, seed=1)
    again.offset = fit.classifier.offset
    method.restore(again.model, state)
    assert difference(logits_of(again, batches), after) <= 1e-5
    assert all(torch.isfinite(tensor).all() for tensor in state.values())


def test_methods_for_other_kinds_of_task_refuse_words() -> None:
    refused = [name for name in ADAPTING if name not in TRAINING]
    assert refused == ["setfit"]
    for name in refused:
        with raises(InvalidStudy, code="method.kind-unsupported", kind=ENTITIES, method=name):
            make(name).check_kind(ENTITIES)
