"""What is to be trained is attached under a check; each thing that a method may get wrong is refused by its name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from afina import METHODS, Backbone
from afina.errors import InvalidStudy
from afina.methods import make
from afina.methods.attachment import attach
from afina.methods.lora import Lora
from afina.methods.method import Method
from afina.methods.peft import PeftMethod
from afina.methods.selective import Selective
from afina.models.classifier import Classifier
from afina.models.pretrained import meta_model
from fakes import Backbones, family_of
from raises import raises


def fresh(backbone: Backbone) -> Classifier:
    return Classifier.open(backbone, ("bad", "good"), seed=0)


@dataclass(frozen=True)
class Fake(Selective):
    """Full fine-tuning, as the violators below start."""

    name: ClassVar[str] = "fake"

    def trains(self, name: str) -> bool:
        return True


class MatchesNothing(Fake):
    def trains(self, name: str) -> bool:
        return "no_such_module" in name


class HeadOnly(Fake):
    def trains(self, name: str) -> bool:
        return "score" in name.split(".")


class Headless(Fake):
    def trains(self, name: str) -> bool:
        return "score" not in name.split(".")


class FrozenBody(Fake):
    trains_body: ClassVar[bool] = False


class FrozenHead(Fake):
    @property
    def trains_head(self) -> bool:
        return False


class Shifts(Fake):
    """Adds a module that starts with an effect."""

    def attach(self, model: Any) -> Any:
        block = model.transformer.h[0]
        block.mlp = nn.Sequential(block.mlp, nn.Linear(32, 32))
        return super().attach(model)


class Breaks(Fake):
    """Leaves something that is not a number."""

    def attach(self, model: Any) -> Any:
        with torch.no_grad():
            model.score.weight.fill_(float("nan"))
        return super().attach(model)


@dataclass(frozen=True)
class ByPeft(PeftMethod):
    """LoRA whose B is not zero, or whose head is not named to peft."""

    name: ClassVar[str] = "by-peft"
    task_type: str | None = "SEQ_CLS"
    at_zero: bool = True

    def settings(self, model: Any) -> Any:
        from peft import LoraConfig

        return LoraConfig(
            task_type=self.task_type, target_modules=["c_attn"], fan_in_fan_out=True, init_lora_weights=self.at_zero
        )


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (MatchesNothing(), {"code": "method.trains-wrong", "trained": "nothing"}),
        (HeadOnly(), {"code": "method.trains-wrong", "trained": "nothing but the head"}),
        (Headless(), {"code": "method.trains-wrong", "parameter": "head", "method": "fake"}),
        (FrozenBody(), {"code": "method.trains-wrong", "parameter": "transformer.wte.weight", "method": "fake"}),
        (FrozenHead(), {"code": "method.trains-wrong", "parameter": "score.weight", "method": "fake"}),
        (Shifts(), {"code": "method.changes-logits", "method": "fake"}),
        (Breaks(), {"code": "method.changes-logits", "method": "fake"}),
        (ByPeft(task_type=None), {"code": "method.trains-wrong", "parameter": "head", "method": "by-peft"}),
        (ByPeft(at_zero=False), {"code": "method.changes-logits", "method": "by-peft"}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Method) else "",
)
def test_a_method_that_breaks_its_word_is_refused_before_anything_is_trained(
    gpt2: Backbone, method: Method, message: dict[str, Any]
) -> None:
    with raises(InvalidStudy, **message):
        attach(fresh(gpt2), method)


@pytest.mark.parametrize("name", METHODS)
def test_the_check_draws_no_number_and_changes_no_weight(backbones: Backbones, name: str) -> None:
    backbone = Backbone.load(str(backbones.path(family_of(name))))
    method = make(name).for_family(backbone.family)
    checked, plain = fresh(backbone), fresh(backbone)
    torch.manual_seed(5)
    attach(checked, method)
    after = torch.get_rng_state()
    torch.manual_seed(5)
    plain.wrap(method.attach)
    assert torch.equal(torch.get_rng_state(), after)
    expected, found = plain.state_dict(), checked.state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[key], tensor) for key, tensor in expected.items())
    assert not any(parameter.grad is not None for parameter in checked.parameters())


def test_where_there_are_no_weights_only_the_parts_are_checked() -> None:
    attach(Classifier(meta_model("gpt2")), Lora(targets=("c_attn",)))
    attach(Classifier(meta_model("gpt2")), ByPeft(at_zero=False))
    with raises(InvalidStudy, code="method.trains-wrong", method="fake"):
        attach(Classifier(meta_model("gpt2")), HeadOnly())
