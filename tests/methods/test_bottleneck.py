"""Adapters against a plain forward: transformers' own model with the formula written out in hooks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import gelu, relu

from afina import Backbone
from afina.data.tokenize import encode
from afina.errors import InvalidStudy
from afina.methods import make
from afina.models.architectures import ARCHITECTURES
from afina.models.classifier import Classifier
from afina.models.kernels.patches import Patch, patches_of
from fakes import SLOW, TEXTS, Backbones, logits_of, opened, reference
from grid import by_family, thinned
from raises import raises

KINDS = ("pfeiffer", "houlsby", "parallel")


def formula(adapter: Any, inputs: Tensor, kind: str, scale: float) -> Tensor:
    """s W2 f(W1 h + b1) + s b2."""
    activation = gelu if kind == "houlsby" else relu
    inner = activation(inputs @ adapter.down.weight.t() + adapter.down.bias)
    return scale * (inner @ adapter.up.weight.t() + adapter.up.bias)


def with_hooks(model: Any, classifier: Classifier, kind: str, scale: float) -> Any:
    """transformers' model, whose modules add what the adapters of `classifier` do."""
    names = ARCHITECTURES[model.config.model_type].block
    blocks, adapted = (each.base_model.get_submodule(names.layers) for each in (model, classifier.model))
    for block, other in zip(blocks, adapted, strict=True):
        for part in ([names.attended] if kind == "houlsby" else []) + [names.mlp]:
            module, adapter = block.get_submodule(part), other.get_submodule(part).bottleneck
            if kind == "parallel" and names.attended != names.attention:
                module.register_forward_pre_hook(before(adapter, kind, scale))
            else:
                module.register_forward_hook(hook(adapter, kind, scale))
    return model


def before(adapter: Any, kind: str, scale: float) -> Any:
    """For an MLP of several modules, whose last one adds its second input."""

    def add(_: Any, inputs: Any) -> Any:
        inner, read = inputs
        return inner, read + formula(adapter, read, kind, scale)

    return add


def hook(adapter: Any, kind: str, scale: float) -> Any:
    def add(_: Any, inputs: Any, outputs: Any) -> Any:
        hidden = outputs[0] if isinstance(outputs, tuple) else outputs
        changed = hidden + formula(adapter, inputs[0] if kind == "parallel" else hidden, kind, scale)
        return (changed, *outputs[1:]) if isinstance(outputs, tuple) else changed

    return add


@pytest.mark.parametrize(("family", "kind"), by_family(thinned(ARCHITECTURES, KINDS), SLOW))
def test_an_adapters_logits_and_gradients_are_the_formulas(backbones: Backbones, family: str, kind: str) -> None:
    backbone = Backbone.load(str(backbones.path(family, dropout=0.0)))
    method = make("adapter", {"kind": kind, "reduction": 4, "scale": 3.0})
    plain = Classifier.open(backbone, ("bad", "good"), seed=0)
    model = reference(backbone.path, plain, 2, backbone.tokenizer.pad_token_id or 0)
    classifier = opened(backbone, method)
    with torch.no_grad():
        for name, parameter in classifier.model.named_parameters():
            if "bottleneck" in name:
                parameter.copy_(torch.randn(parameter.shape) * 0.3)
    model = with_hooks(model, classifier, kind, 3.0 if kind == "parallel" else 1.0)
    found = logits_of(classifier, backbone)
    assert (found - logits_of(plain, backbone)).abs().max() > 1e-2
    tokens = encode(backbone.tokenizer, TEXTS, max_length=backbone.longest)
    with torch.no_grad():
        rows = [torch.tensor(tokens[index]).long()[None] for index in range(len(tokens))]
        expected = torch.cat([model(input_ids=row, attention_mask=torch.ones_like(row)).logits for row in rows])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("kind", "modules"), [("pfeiffer", 1), ("houlsby", 2), ("parallel", 1)])
def test_each_kind_adds_its_modules_and_renames_nothing(gpt2: Backbone, kind: str, modules: int) -> None:
    method = make("adapter", {"kind": kind, "reduction": 4})
    before = dict(Classifier.open(gpt2, ("bad", "good"), seed=0).model.named_parameters())
    model = opened(gpt2, method).model
    after = dict(model.named_parameters())
    new = {name: list(each.shape) for name, each in after.items() if name not in before}
    assert set(before) <= set(after)
    assert len(new) == 2 * modules * 4
    assert all(".bottleneck." in name for name in new)
    assert new["transformer.h.0.mlp.bottleneck.down.weight"] == [8, 32]
    assert new["transformer.h.0.mlp.bottleneck.up.weight"] == [32, 8]
    assert sum(Patch.BOTTLENECK in patches_of(module) for module in model.modules()) == 2 * modules
    assert set(method.trainable(model)) == {*new, "score.weight"}


@pytest.mark.parametrize(
    ("given", "fields"),
    [
        ({"kind": "other"}, {"setting": "kind", "found": "other"}),
        ({"reduction": 0}, {"reduction": 0}),
        ({"scale": float("nan")}, {"reduction": 16, "scale": "nan"}),
    ],
)
def test_an_impossible_adapter_is_an_error_that_says_what_is_possible(
    given: dict[str, Any], fields: dict[str, Any]
) -> None:
    with raises(InvalidStudy, code="method.setting-invalid", method="adapter", **fields):
        make("adapter", given)


def test_a_reduction_beyond_the_width_leaves_one_value(gpt2: Backbone) -> None:
    method = make("adapter", {"reduction": 1_000_000})
    shapes = {tuple(each.shape) for name, each in opened(gpt2, method).model.named_parameters() if "bottleneck" in name}
    assert shapes == {(1, 32), (1,), (32, 1), (32,)}
