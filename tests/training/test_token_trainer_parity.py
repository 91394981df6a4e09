"""Training on words is Trainer's with padding and labels of -100: losses, weights and what is trained, for 50 steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PromptTuningConfig, get_peft_model
from transformers import AutoModelForTokenClassification, DataCollatorForTokenClassification

from afina import Backbone
from afina.data.batch import IGNORED, Loader, MicroBatchLimits
from afina.methods import make
from afina.methods.method import Method
from fakes import Backbones, reference
from tagging import OBJECTIVE, fit_of, loader, opened
from trainer import (
    BY_PEFT,
    RECIPE,
    SEED,
    TOLERANCE,
    Outcome,
    Padded,
    by_afina,
    by_trainer,
    compare,
    load,
    loss_difference,
    without_dropout,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Specified to not save:UserWarning"),
    pytest.mark.filterwarnings("ignore:Unsupported layer type:UserWarning"),
    pytest.mark.filterwarnings("ignore:`past_key_values` is deprecated:FutureWarning"),
]
EXAMPLES = 70
TRAINED = {
    "full": ("",),
    "bitfit": (".bias", "classifier.", "score."),
    "layernorm": (".ln_", "norm.", "LayerNorm.", "classifier.", "score."),
}


def plain(backbone: Backbone) -> Any:
    """transformers' own token classifier with its own attention, with the head of ours and without dropout before it.

    transformers gives the heads of some families a dropout of 0.1 that no setting of theirs turns off.
    """
    model = reference(backbone.path, opened(backbone, seed=SEED), OBJECTIVE.width, backbone.tokenizer.pad_token_id)
    return without_dropout(model)


def ours(backbone: Backbone, method: Method, batches: Loader, **changes: Any) -> Outcome:
    model = opened(backbone, method, SEED)
    without_dropout(model)
    return by_afina(fit_of(model, method, batches, **(RECIPE | changes)))


def theirs(model: Any, backbone: Backbone, batches: Loader, path: Path, **changes: Any) -> Outcome:
    padded = Padded(batches, backbone.tokenizer.pad_token_id or 0, shifted=False)
    return by_trainer(model, padded, path, **changes)


CHOOSING = [*((family, "full") for family in ("bert", "modernbert")), ("gpt2", "bitfit"), ("llama", "layernorm")]


@pytest.mark.slow
@pytest.mark.parametrize(("family", "name"), CHOOSING)
def test_steps_of_the_models_own_parameters_are_trainers(
    backbones: Backbones, family: str, name: str, tmp_path: Path, steps: int
) -> None:
    backbone, method = load(backbones, family), make(name).for_family(family)
    batches, model = loader(backbone, EXAMPLES, seed=SEED), plain(backbone)
    for key, parameter in model.named_parameters():
        parameter.requires_grad_(any(part in f".{key}" for part in TRAINED[name]))
    found = ours(backbone, method, batches, steps=steps)
    compare(found, theirs(model, backbone, batches, tmp_path, max_steps=steps), family)


PEFT_CASES = [*((family, "lora") for family in ("llama", "bert", "modernbert")), ("gpt2", "vera")]
TARGETS = {"bert": ["query", "key", "value"], "modernbert": ["Wqkv"]}


@pytest.mark.slow
@pytest.mark.parametrize(("family", "name"), PEFT_CASES)
def test_steps_of_what_peft_implements_are_trainers(
    backbones: Backbones, family: str, name: str, tmp_path: Path, steps: int
) -> None:
    backbone, case = load(backbones, family), BY_PEFT[name]
    method = make(case.method, case.given).for_family(family)
    batches = loader(backbone, EXAMPLES, seed=SEED)
    own = dict(case.own.get(family, {})) | ({"target_modules": TARGETS[family]} if family in TARGETS else {})
    saved = {"modules_to_save": ["head"]} if family == "modernbert" else {}
    found = ours(backbone, method, batches, steps=steps)
    model = plain(backbone)
    torch.manual_seed(SEED)
    model = get_peft_model(model, case.settings(task_type="TOKEN_CLS", **own, **saved))
    compare(found, theirs(model, backbone, batches, tmp_path, kind=case.trainer, max_steps=steps), family)


class BesideVirtual(Padded):
    """Batches whose labels have IGNORED for virtual tokens, which peft (0.21) does not add for token classifiers."""

    def __getitem__(self, step: int) -> dict[str, torch.Tensor]:
        batch = super().__getitem__(step)
        before = batch["labels"].new_full((len(batch["labels"]), VIRTUAL), IGNORED)
        return batch | {"labels": torch.cat([before, batch["labels"]], 1)}


VIRTUAL = 5


@pytest.mark.slow
def test_the_steps_of_a_prompt_are_those_under_trainer(backbones: Backbones, tmp_path: Path, steps: int) -> None:
    """peft (0.21) has no prefix tuning for transformers' token classifiers."""
    backbone, method = load(backbones, "gpt2"), make("prompt", {"tokens": VIRTUAL})
    batches = loader(backbone, EXAMPLES, seed=SEED, taken=VIRTUAL)
    found = ours(backbone, method, batches, steps=steps)
    model = get_peft_model(plain(backbone), PromptTuningConfig(task_type="TOKEN_CLS", num_virtual_tokens=VIRTUAL))
    embedding = next(each for key, each in model.named_parameters() if "prompt_encoder" in key)
    with torch.no_grad():
        embedding.copy_(next(each for key, each in found.before.items() if ".prompt." in key))
    expected = by_trainer(model, BesideVirtual(batches, 0, shifted=False), tmp_path, max_steps=steps)
    assert loss_difference(found, expected) <= TOLERANCE
    assert found.losses[-1] < found.losses[0]


@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_the_loss_of_a_batch_is_that_of_transformers_on_the_collated_batch(backbones: Backbones, family: str) -> None:
    backbone = load(backbones, family)
    batches, model = loader(backbone, 8, seed=SEED), plain(backbone)
    (packed,) = batches.batches(0, 1)
    pairs = zip(packed.by_sequence(packed.tokens), packed.by_sequence(packed.targets), strict=True)
    collate = DataCollatorForTokenClassification(backbone.tokenizer)
    batch = collate([{"input_ids": ids.tolist(), "labels": labels.tolist()} for ids, labels in pairs])
    assert (batch["labels"] == IGNORED).any()
    with torch.no_grad():
        expected = model(**batch).loss
        found = OBJECTIVE.loss(opened(backbone, seed=SEED).eval()(packed), packed.learnt_targets)
    assert abs(float(found - expected)) <= TOLERANCE * float(expected)


def test_a_batch_in_parts_has_the_gradient_of_the_whole_batch(gpt2: Backbone) -> None:
    method, batches = make("lora", {"dropout": 0.0}).for_family("gpt2"), loader(gpt2, 24)
    outcomes = []
    for limits in (MicroBatchLimits(), MicroBatchLimits(examples=3)):
        model = opened(gpt2, method)
        for module in model.modules():
            if hasattr(module, "p"):
                module.p = 0.0
        fit = fit_of(model, method, batches, steps=3, at_once=limits)
        fit.advance()
        outcomes.append(fit.account.losses)
    assert outcomes[0] == pytest.approx(outcomes[1], rel=1e-4)


def test_the_opened_class_is_the_one_that_the_auto_class_opens(backbones: Backbones) -> None:
    path = backbones.path("bert")
    model = AutoModelForTokenClassification.from_pretrained(path, num_labels=OBJECTIVE.width)
    found = opened(Backbone.load(str(path))).model
    assert type(found) is type(model)
    assert found.state_dict().keys() == model.state_dict().keys()
