"""Two methods that may be added up keep the laws of one; others are refused, for a reason that is so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations

import pytest
import torch

from afina import METHODS, Backbone
from afina.errors import InvalidStudy
from afina.methods import make
from afina.methods.method import Method, plain_name
from afina.methods.peft import PeftMethod
from afina.models.architectures import is_head
from afina.models.classifier import Classifier
from fakes import TEXTS, Backbones, encoded, fit_of, logits_of, opened, sentences, serves

KEYS = [key for key, kind in METHODS.items() if kind.trains_body and not kind().trains_nothing and kind().pairs is None]
TRIED = ("gpt2", "llama", "bert")
CASES = [
    (family, "+".join(pair))
    for place, pair in enumerate([*combinations(KEYS, 2)][::4])
    for family in [next(one for one in (TRIED * 2)[place % 3 :] if all(serves(one, key) for key in pair))]
]
"""One pair of four, each on one family, so that each method is in several pairs."""

GIVEN = {"last": {"blocks": 1}, "adapter": {"reduction": 4}, "vera": {"r": 8}}

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")]


@dataclass(frozen=True)
class Alone:
    """What a method does by itself, by the names that parameters have where peft wraps nothing.

    Attributes:
        trains: The weights that it trains beside the head.
        wraps: The weights that it adds to.
    """

    trains: frozenset[str]
    wraps: frozenset[str]


@pytest.fixture(scope="module")
def alone(backbones: Backbones) -> Callable[[str, str], Alone]:
    """What the method of a key does by itself to the tiny model of a family; each is in many pairs."""

    @cache
    def found(family: str, key: str) -> Alone:
        method = make(key, GIVEN.get(key)).for_family(family)
        model = opened(Backbone.load(str(backbones.path(family))), method).model
        trained = map(plain_name, method.trainable(model))
        names = (name for name, _ in model.named_parameters())
        return Alone(
            frozenset(name for name in trained if not is_head(name)),
            frozenset(plain_name(name) for name in names if name.endswith(".base_layer.weight")),
        )

    return found


def why_not(parts: Sequence[Method], one: Alone, other: Alone) -> str | None:
    """What is wrong with two methods, found by what each does alone; None where nothing is."""
    if all(isinstance(part, PeftMethod) for part in parts):
        return "both wrap the model with peft"
    if one.trains & other.trains:
        return "both train"
    if one.wraps & other.trains or other.wraps & one.trains:
        return "but another part adds to the same weight"
    return None


@pytest.mark.parametrize(("family", "name"), CASES, ids=map("-".join, CASES))
def test_two_methods_together_keep_the_laws_of_one_or_are_refused(
    backbones: Backbones, alone: Callable[[str, str], Alone], family: str, name: str
) -> None:
    backbone, keys = Backbone.load(str(backbones.path(family))), name.split("+")
    given = {key: GIVEN[key] for key in keys if key in GIVEN}
    one, other = (alone(family, key) for key in keys)
    reason = why_not([make(key, given.get(key)).for_family(family) for key in keys], one, other)
    if reason:
        with pytest.raises(InvalidStudy, match=reason):
            opened(backbone, make(name, given).for_family(family))
        return
    method = make(name, given).for_family(family)
    before = logits_of(Classifier.open(backbone, ("bad", "good"), seed=0), backbone)
    classifier = opened(backbone, method)
    assert torch.equal(logits_of(classifier, backbone), before) != method.starts_apart
    declared = set(method.trainable(classifier.model))
    assert {plain_name(each) for each in declared if not is_head(each)} == one.trains | other.trains
    start = {each: value.detach().clone() for each, value in classifier.model.named_parameters()}
    fit_of(classifier, method, encoded(backbone, sentences(24), method.takes_positions), steps=3).advance()
    after = dict(classifier.model.named_parameters())
    assert {each for each, value in after.items() if not torch.equal(value, start[each])} == declared
    texts = [text[: backbone.longest // 2] for text in TEXTS]
    together = logits_of(classifier, backbone, texts)
    by_itself = torch.cat([logits_of(classifier, backbone, [text]) for text in reversed(texts)]).flip(0)
    assert torch.allclose(together, by_itself, rtol=0, atol=1e-5 * float(together.abs().max()))
    state = {each: tensor.detach().clone() for each, tensor in method.state(classifier.model).items()}
    fresh = opened(backbone, method, seed=1)
    method.restore(fresh.model, state)
    assert torch.equal(logits_of(fresh, backbone, texts), together)
