"""How a saved state takes part in a row of several adapters, said by each method of itself."""

from __future__ import annotations

import pytest
import torch

from afina import Backbone
from afina.methods import make
from afina.methods.method import Method
from afina.methods.selective import BitFit
from afina.models.classifier import Classifier
from afina.models.kernels.layer_changes import BatchedAdapter, BiasChange, NormChange
from afina.models.pretrained import meta_model


def batched_of(method: Method, backbone: Backbone, base: object) -> BatchedAdapter | None:
    model = method.attach(meta_model(str(backbone.path)))
    with torch.random.fork_rng(devices=[]):
        state = {name: torch.randn(tensor.shape) for name, tensor in method.state(model).items()}
    return method.batched(model, state, base)


def test_a_bias_is_told_from_a_norm_where_the_matrix_beside_it_is_packed_away(gpt2: Backbone) -> None:
    base = Classifier.open(gpt2, ("bad", "good"), seed=0).model
    for layer in base.modules():
        if type(layer).__name__ == "Conv1D":
            layer.weight.data = layer.weight.data.new_empty(0)  # as a packed layer has it
    batched = batched_of(BitFit(), gpt2, base)
    assert batched is not None
    kinds = {path.rpartition(".")[2]: {type(one) for one in changes} for path, changes in batched.changes.items()}
    assert kinds == {
        **{key: {BiasChange} for key in ("c_attn", "c_proj", "c_fc")},
        **{key: {NormChange} for key in ("ln_1", "ln_2", "ln_f")},
    }


@pytest.mark.parametrize("name", ["full", "last", "prelayer", "lora+prelayer"])
def test_what_changes_a_matrix_or_an_embedding_has_no_part_in_a_mixed_batch(gpt2: Backbone, name: str) -> None:
    method = make(name).for_family("gpt2")
    assert batched_of(method, gpt2, Classifier.open(gpt2, ("bad", "good"), seed=0).model) is None


def test_a_method_that_does_not_say_how_has_weights_of_its_own(gpt2: Backbone) -> None:
    class Own(BitFit):
        batched = Method.batched

    assert batched_of(Own(), gpt2, Classifier.open(gpt2, ("bad", "good"), seed=0).model) is None


def test_a_rider_hears_all_that_is_saved_but_the_head(gpt2: Backbone) -> None:
    base = Classifier.open(gpt2, ("bad", "good"), seed=0).model
    for name in ("lora", "vera", "ia3", "bitfit", "layernorm", "adapter", "prompt", "prefix", "lora+bitfit+adapter"):
        method = make(name).for_family("gpt2")
        model = method.attach(meta_model(str(gpt2.path)))
        state = {key: torch.zeros(tensor.shape) for key, tensor in method.state(model).items()}
        batched = method.batched(model, state, base)
        assert batched is not None
        assert batched.tensor_names == {key for key in state if "score" not in key.split(".")}, name
        assert not batched.is_empty
