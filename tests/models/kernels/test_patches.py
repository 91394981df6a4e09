"""Patches go on in one order, once each, on every module that they are for; whatever they exchange keeps its names."""

from __future__ import annotations

import copy
from collections import Counter

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from afina import Backbone
from afina.data.batch import pack
from afina.methods import make
from afina.models.architectures import ARCHITECTURES, blocks_of
from afina.models.classifier import Classifier
from afina.models.kernels.elementwise import Dropout
from afina.models.kernels.patches import Patch, exchange, patch, patches_of
from afina.training.fit import checkpoint_blocks
from afina.training.mixed_precision import WorkingWeights
from fakes import SLOW, Backbones, logits_of, opened
from grid import by_family


def counted(classifier: Classifier) -> Counter[tuple[Patch, ...]]:
    """How many modules have which patches."""
    return Counter(tuple(patches_of(module)) for module in classifier.model.modules() if patches_of(module))


def double(module: nn.Module, by: float, inputs: Tensor) -> Tensor:
    return inputs * by


def test_a_patched_module_computes_what_it_was_given_and_says_so() -> None:
    module = nn.Identity()
    patch(module, Patch.LINEAR, double, 2.0)
    assert module(torch.ones(1)).item() == 2
    patch(module, Patch.LINEAR, double, 3.0)
    assert module(torch.ones(1)).item() == 3
    assert patches_of(module) == [Patch.LINEAR]


def test_a_patch_that_would_undo_a_later_one_is_refused_and_changes_nothing() -> None:
    module = nn.Identity()
    patch(module, Patch.CHECKPOINT, double, 2.0)
    with pytest.raises(ValueError, match="Identity has patch CHECKPOINT already; LAST_BLOCK comes before it"):
        patch(module, Patch.LAST_BLOCK, double, 3.0)
    assert module(torch.ones(1)).item() == 2
    assert patches_of(module) == [Patch.CHECKPOINT]


@pytest.mark.parametrize("training", [True, False])
def test_an_exchanged_child_goes_on_training_or_evaluating(training: bool) -> None:
    parent = nn.Sequential(nn.Dropout(0.5)).train(training)
    exchange(parent, "0", Patch.DROPOUT, Dropout(0.5))
    assert type(parent[0]) is Dropout
    assert parent[0].training is training


def test_a_wrapped_models_kernels_are_each_there_once(gpt2: Backbone) -> None:
    """Two blocks of four linear layers; LoRA adds two factors and a layer around to one of each block."""
    plain, wrapped = (opened(gpt2, make(name).for_family("gpt2")) for name in ("full", "lora"))
    linear, lora, dropout = (Patch.LINEAR,), (Patch.LORA,), (Patch.DROPOUT,)
    assert counted(plain)[linear] == 8
    assert (counted(wrapped)[linear], counted(wrapped)[lora]) == (12, 2)
    assert counted(wrapped)[dropout] == counted(plain)[dropout] + 2
    assert counted(plain)[(Patch.GELU,)] == counted(wrapped)[(Patch.GELU,)] == 2
    assert counted(plain)[(Patch.LAST_BLOCK,)] == counted(wrapped)[(Patch.LAST_BLOCK,)] == 1
    assert not any(type(module) is nn.Dropout for module in wrapped.modules())


def test_training_patches_on_top_of_the_kernels_and_a_wrap_afterwards_is_refused(gpt2: Backbone) -> None:
    method = make("prelayer")
    classifier = opened(gpt2, method)
    before = logits_of(classifier, gpt2)
    checkpoint_blocks(classifier.body)
    WorkingWeights.of(method, classifier.model, torch.float32)
    assert counted(classifier)[(Patch.LAST_BLOCK, Patch.CHECKPOINT)] == 1
    assert counted(classifier)[(Patch.CHECKPOINT,)] == 1
    assert counted(classifier)[(Patch.LOOK_UP,)] == 2
    assert torch.equal(logits_of(classifier, gpt2), before)
    with pytest.raises(ValueError, match="LAST_BLOCK comes before it"):
        classifier.wrap(method.attach)


def test_a_copy_of_a_patched_module_computes_by_itself() -> None:
    module = nn.Linear(2, 2)
    patch(module, Patch.LINEAR, lambda linear, inputs: linear.bias + 0 * inputs)
    other = copy.deepcopy(module)
    with torch.no_grad():
        other.bias.fill_(7.0)
    del module
    assert other(torch.ones(2)).tolist() == [7, 7]


@pytest.mark.parametrize("family", by_family(ARCHITECTURES, SLOW))
def test_the_last_block_projects_only_the_rows_that_the_head_reads(backbones: Backbones, family: str) -> None:
    """In the last block, the last layer of the MLP gets one row for each text; without the patch, all rows."""
    backbone = Backbone.load(str(backbones.path(family)))
    classifier = Classifier.open(backbone, ("bad", "good"), seed=0).eval()
    packed = pack([np.arange(1, length) for length in (5, 9, 3)])
    names = ARCHITECTURES[family].block
    path = [path for path, (inputs, _) in names.linear.items() if inputs == "inner"][-1]
    blocks = blocks_of(classifier.body)
    rows: list[int] = []
    for block in blocks:
        block.get_submodule(path).register_forward_hook(lambda _, inputs, output: rows.append(output.shape[1]))
    with torch.inference_mode():
        found = classifier(packed)
        assert rows == [14, 3]
        blocks[-1].__dict__.pop("forward")
        rows.clear()
        expected = classifier(packed)
    assert rows == [14, 14]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
