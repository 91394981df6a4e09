"""Training on texts is Trainer's with padding and labels of -100: losses, weights and what is trained, for 50 steps."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PrefixTuningConfig, PromptTuningConfig, get_peft_model
from transformers import AutoModelForCausalLM

from afina import Backbone
from afina.data.batch import Loader, MicroBatchLimits
from afina.methods import make
from afina.methods.method import Method
from fakes import BATCH, Backbones
from language import fit_of, loader, opened
from trainer import (
    BEYOND,
    BY_PEFT,
    MOST,
    RECIPE,
    SEED,
    STEPS,
    TOLERANCE,
    Outcome,
    Padded,
    by_afina,
    by_trainer,
    compare,
    compare_weights,
    load,
    loss_difference,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Specified to not save:UserWarning"),
    pytest.mark.filterwarnings("ignore:Unsupported layer type:UserWarning"),
    pytest.mark.filterwarnings("ignore:`past_key_values` is deprecated:FutureWarning"),
]
EXAMPLES = 70


def plain(backbone: Backbone) -> Any:
    """transformers' own model with its own attention."""
    model = AutoModelForCausalLM.from_pretrained(backbone.path, dtype=torch.float32, attn_implementation="sdpa")
    model.config.pad_token_id = backbone.tokenizer.pad_token_id
    return model


def ours(backbone: Backbone, method: Method, batches: Loader, **changes: Any) -> Outcome:
    return by_afina(fit_of(opened(backbone, method, SEED), method, batches, **(RECIPE | changes)))


def theirs(model: Any, batches: Loader, path: Path, *, length: int = STEPS, **changes: Any) -> Outcome:
    return by_trainer(model, Padded(batches, model.config.pad_token_id or 0, length), path, **changes)


# Methods that choose parameters of the model

TRAINED = {"full": ("",), "prelayer": (".wte.", ".wpe.")}
CHOOSING = [
    ("gpt2", "prelayer"),
    *((family, "full") for family in ("gpt2", "llama", "gpt_neox", "mistral", "qwen2", "qwen3")),
]


@pytest.mark.slow
@pytest.mark.parametrize(("family", "name"), CHOOSING)
def test_steps_of_the_models_own_parameters_are_trainers(
    backbones: Backbones, family: str, name: str, tmp_path: Path, steps: int
) -> None:
    backbone, method = load(backbones, family), make(name).for_family(family)
    batches = loader(backbone, EXAMPLES, seed=SEED)
    model = plain(backbone)
    for key, parameter in model.named_parameters():
        parameter.requires_grad_(any(part in f".{key}" for part in TRAINED[name]))
    found = ours(backbone, method, batches, steps=steps)
    compare(found, theirs(model, batches, tmp_path, max_steps=steps), family)


# Methods that peft has


@pytest.mark.slow
@pytest.mark.parametrize(("family", "name"), [("llama", "lora"), ("gpt2", "vera"), ("gpt2", "ia3")])
def test_steps_of_what_peft_implements_are_trainers(
    backbones: Backbones, family: str, name: str, tmp_path: Path, steps: int
) -> None:
    backbone, case = load(backbones, family), BY_PEFT[name]
    method = make(case.method, case.given).for_family(family)
    batches = loader(backbone, EXAMPLES, seed=SEED)
    found = ours(backbone, method, batches, steps=steps)
    torch.manual_seed(SEED)
    model = get_peft_model(plain(backbone), case.settings(task_type="CAUSAL_LM", **case.own.get(family, {})))
    compare(found, theirs(model, batches, tmp_path, kind=case.trainer, max_steps=steps), family)


# Virtual tokens, which peft stores under names of its own

VIRTUAL = 5


def begun_alike(name: str, model: Any, before: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Give peft's virtual tokens the initial values of ours; return their parameter."""
    (embedding,) = (each for key, each in model.named_parameters() if each.requires_grad)
    with torch.no_grad():
        if name == "prompt":
            embedding.copy_(next(iter(before.values())))
        else:
            embedding.copy_(as_one(before))
    return embedding


def as_one(parts: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """peft's row of a virtual token has the key and the value of every layer, and ours are apart: [tokens, all]."""
    if len(parts) == 1:
        return next(iter(parts.values()))
    blocks = sorted({key.rpartition(".")[0] for key in parts})
    return torch.cat([parts[f"{block}.{kind}"].flatten(1) for block in blocks for kind in ("key", "value")], 1)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "name"), [("gpt2", "prefix"), ("llama", "prompt")])
def test_steps_of_virtual_tokens_are_trainers_from_the_same_start(
    backbones: Backbones, family: str, name: str, tmp_path: Path, steps: int
) -> None:
    backbone, method = load(backbones, family), make(name, {"tokens": VIRTUAL})
    batches = loader(backbone, EXAMPLES, taken=VIRTUAL, seed=SEED)
    found = ours(backbone, method, batches, steps=steps, weight_decay=0.0, clip=1e9)
    settings = {"prompt": PromptTuningConfig, "prefix": PrefixTuningConfig}[name]
    model = get_peft_model(plain(backbone), settings(task_type="CAUSAL_LM", num_virtual_tokens=VIRTUAL))
    embedding = begun_alike(name, model, found.before)
    expected = theirs(model, batches, tmp_path, max_steps=steps, weight_decay=0.0, max_grad_norm=1e9)
    assert found.rates == pytest.approx(expected.rates, rel=1e-12)
    assert loss_difference(found, expected) <= TOLERANCE
    apart = (as_one(found.after) - embedding.detach()).abs()
    assert (apart > TOLERANCE * embedding.abs().max()).float().mean() <= 1e-2
    assert apart.max() < MOST


# Steps of several batches

ACCUMULATE, LOOSER = 2, 2.0
"""Batches a step, and a largest norm that clips some of their steps and not others, so that scale matters."""


@pytest.mark.slow
def test_accumulated_steps_are_trainers_which_divides_by_all_their_target_tokens(
    backbones: Backbones, tmp_path: Path
) -> None:
    """Nine batches an epoch, two a step: the fifth step has the one that is left, of six examples."""
    backbone, method = load(backbones, "gpt2"), make("full")
    wide = loader(backbone, EXAMPLES, batch_size=BATCH * ACCUMULATE, seed=SEED)
    limits = MicroBatchLimits(examples=BATCH)
    found = ours(backbone, method, wide, steps=10, clip=LOOSER, at_once=limits)
    expected = theirs(
        plain(backbone),
        loader(backbone, EXAMPLES, seed=SEED),
        tmp_path,
        length=9,
        num_train_epochs=2,
        max_steps=-1,
        gradient_accumulation_steps=ACCUMULATE,
        max_grad_norm=LOOSER,
    )
    parts = iter(expected.losses)
    assert found.losses == pytest.approx([sum(islice(parts, count)) for count in [2, 2, 2, 2, 1] * 2], rel=TOLERANCE)
    beyond, largest = compare_weights(found, expected, "gpt2")
    assert beyond <= BEYOND
    assert largest < MOST
