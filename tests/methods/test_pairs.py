"""Every two methods that may be added up keep the laws of one; every other two are refused, for a reason that is so."""

from __future__ import annotations

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

KEYS = [key for key, kind in METHODS.items() if kind.trains_body and not kind().trains_nothing]
CASES = [
    (family, "+".join(pair))
    for family in ("gpt2", "llama", "bert")
    for pair in combinations([key for key in KEYS if serves(family, key)], 2)
]
GIVEN = {"last": {"blocks": 1}, "adapter": {"reduction": 4}, "vera": {"r": 8}}

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")]


def trains(backbone: Backbone, part: Method) -> set[str]:
    """What it trains alone beside the head, by the names that parameters have where peft wraps nothing."""
    names = map(plain_name, part.trainable(opened(backbone, part).model))
    return {name for name in names if not is_head(name)}


def wraps(backbone: Backbone, part: Method) -> set[str]:
    """The weights that it adds to."""
    names = (name for name, _ in opened(backbone, part).model.named_parameters())
    return {plain_name(name) for name in names if name.endswith(".base_layer.weight")}


def why_not(backbone: Backbone, parts: dict[str, Method]) -> str | None:
    """What is wrong with two methods, found by what each does alone; None where nothing is."""
    one, other = parts.values()
    if isinstance(one, PeftMethod) and isinstance(other, PeftMethod):
        return "both wrap the model with peft"
    if trains(backbone, one) & trains(backbone, other):
        return "both train"
    if wraps(backbone, one) & trains(backbone, other) or wraps(backbone, other) & trains(backbone, one):
        return "but another part adds to the same weight"
    return None


@pytest.mark.parametrize(("family", "name"), CASES, ids=map("-".join, CASES))
def test_two_methods_together_keep_the_laws_of_one_or_are_refused(backbones: Backbones, family: str, name: str) -> None:
    backbone = Backbone.load(str(backbones.path(family)))
    given = {part: GIVEN[part] for part in name.split("+") if part in GIVEN}
    parts = {part: make(part, given.get(part)).for_family(family) for part in name.split("+")}
    reason = why_not(backbone, parts)
    if reason:
        with pytest.raises(InvalidStudy, match=reason):
            opened(backbone, make(name, given).for_family(family))
        return
    method = make(name, given).for_family(family)
    before = logits_of(Classifier.open(backbone, ("bad", "good"), seed=0), backbone)
    classifier = opened(backbone, method)
    assert torch.equal(logits_of(classifier, backbone), before) != method.starts_apart
    declared = set(method.trainable(classifier.model))
    assert {plain_name(one) for one in declared if not is_head(one)} == set().union(
        *(trains(backbone, part) for part in parts.values())
    )
    start = {one: each.detach().clone() for one, each in classifier.model.named_parameters()}
    fit_of(classifier, method, encoded(backbone, sentences(24), method.takes_positions), steps=3).advance()
    after = dict(classifier.model.named_parameters())
    assert {one for one, each in after.items() if not torch.equal(each, start[one])} == declared
    texts = [text[: backbone.longest // 2] for text in TEXTS]
    together = logits_of(classifier, backbone, texts)
    alone = torch.cat([logits_of(classifier, backbone, [text]) for text in reversed(texts)]).flip(0)
    assert torch.allclose(together, alone, rtol=0, atol=1e-5 * float(together.abs().max()))
    state = {one: tensor.detach().clone() for one, tensor in method.state(classifier.model).items()}
    fresh = opened(backbone, method, seed=1)
    method.restore(fresh.model, state)
    assert torch.equal(logits_of(fresh, backbone, texts), together)
