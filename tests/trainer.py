"""transformers' Trainer on ready batches, what it and afina give after as many steps, and how they are compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import HiraConfig, IA3Config, LNTuningConfig, LoraConfig, MissConfig, VeraConfig
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset
from transformers import Trainer, TrainingArguments

from afina import Backbone
from afina.data.batch import IGNORED, Loader
from afina.training.fit import Fit
from fakes import Backbones

STEPS, SEED, RATE, CLIP, DECAY = 50, 3, 1e-3, 1.0, 0.1
FEW = 12
"""Steps of a quick test: more than an epoch."""

TOLERANCE = 1e-5
EPSILON = 1e-6
"""AdamW's, in trainings that are compared; its default is 1e-8.

AdamW divides a gradient by its size. With 1e-8, a gradient within rounding (1e-9) of zero makes a part of a step from
that rounding: of 100 tiny models (four families, all weights, 50 steps), losses of one came out 1.3e-5 apart, and
single weights up to 9e-5; with 1e-6, losses at most 7.7e-6 and weights 9.5e-6.
"""
MOST, BEYOND = RATE / 50, 3e-3
"""Limits of what `compare_weights` returns."""
RECIPE = {"learning_rate": RATE, "weight_decay": DECAY, "clip": CLIP, "seed": SEED}


@dataclass
class Outcome:
    """Losses and learning rates by step; what was trained by name, before and after."""

    losses: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    before: dict[str, torch.Tensor] = field(default_factory=dict)
    after: dict[str, torch.Tensor] = field(default_factory=dict)


class Padded(Dataset[dict[str, torch.Tensor]]):
    """afina's batches in afina's order, padded to their longest text; labels of tokens have -100 outside of targets.

    A label is at the token itself, as transformers expects. `shifted`: afina's targets are at the token before it.
    `length` is how many batches Trainer takes from the data set until it begins again.
    """

    def __init__(self, batches: Loader, pad: int, length: int = STEPS, *, shifted: bool = True) -> None:
        self.batches, self.pad, self.length, self.taken, self.shifted = batches, pad, length, 0, shifted

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, step: int) -> dict[str, torch.Tensor]:
        self.taken += 1
        (batch,) = self.batches.batches(self.taken - 1, self.taken)
        rows, labels = batch.by_sequence(batch.tokens), batch.targets
        if batch.per_token and not self.shifted:
            labels = pad_sequence(batch.by_sequence(labels), True, IGNORED)
        elif batch.per_token:
            right = batch.by_sequence(labels)
            rows = [torch.cat([row, each[-1:]]) for row, each in zip(rows, right, strict=True)]
            first = labels.new_tensor([IGNORED])
            labels = pad_sequence([torch.cat([first, each]) for each in right], True, IGNORED)
        mask = pad_sequence([torch.ones_like(row) for row in rows], True)
        ids = pad_sequence(rows, True, self.pad)
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}


class Recorded(Trainer):
    """Trainer on ready batches, in order; keeps what Trainer itself only logs rounded."""

    outcome: Outcome

    def get_train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.train_dataset, batch_size=None, shuffle=False)

    def training_step(self, *arguments: Any, **named: Any) -> torch.Tensor:
        loss = super().training_step(*arguments, **named)
        self.outcome.losses.append(loss.item())
        self.outcome.rates.append(self._get_learning_rate())
        return loss

    def log(self, *arguments: Any, **named: Any) -> None:
        """Print nothing."""


def arguments(path: Path, **changes: Any) -> TrainingArguments:
    settings = {"max_grad_norm": CLIP, "warmup_steps": 0, "weight_decay": DECAY, "adam_epsilon": EPSILON} | changes
    return TrainingArguments(
        output_dir=str(path),
        **settings,
        learning_rate=RATE,
        lr_scheduler_type="linear",
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
    )


def snapshot(parameters: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in parameters.items()}


def load(backbones: Backbones, family: str) -> Backbone:
    return Backbone.load(str(backbones.path(family, dropout=0.0)))


def without_dropout(model: Any) -> Any:
    """A model whose dropout modules drop nothing, also those of a head whose rate no setting turns off."""
    for name, module in model.named_modules():
        if name.endswith("dropout") and hasattr(module, "p"):
            module.p = 0.0
    return model


def well_conditioned(fit: Fit) -> Fit:
    """The training with EPSILON."""
    for group in fit.optimizer.param_groups:
        group["eps"] = EPSILON
    return fit


def by_afina(fit: Fit) -> Outcome:
    outcome = Outcome(before=snapshot(fit.parameters))
    well_conditioned(fit)
    fit.advance(listen=lambda _: outcome.rates.append(fit.optimizer.param_groups[0]["lr"]))
    outcome.losses, outcome.after = fit.account.losses, snapshot(fit.parameters)
    return outcome


def by_trainer(
    model: Any,
    data: Dataset[dict[str, torch.Tensor]],
    path: Path,
    kind: type[Recorded] = Recorded,
    more: Mapping[str, Any] | None = None,
    **changes: Any,
) -> Outcome:
    """Train what requires a gradient; `more` are Trainer's own arguments, and `changes` those of its settings."""
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    trainer = kind(model=model, args=arguments(path, **changes), train_dataset=data, **(more or {}))
    trainer.outcome = Outcome(before=snapshot(trained))
    trainer.train()
    trainer.outcome.after = snapshot(trained)
    return trainer.outcome


def compare(found: Outcome, expected: Outcome, family: str) -> None:
    """Assert equal trainings."""
    assert found.before.keys() == expected.before.keys()
    assert all(torch.equal(found.before[key], expected.before[key]) for key in found.before)
    assert found.rates == pytest.approx(expected.rates, rel=1e-12)
    assert loss_difference(found, expected) <= TOLERANCE
    assert any(not torch.equal(found.after[key], found.before[key]) for key in found.after)
    share, largest = compare_weights(found, expected, family)
    assert share <= BEYOND
    assert largest < MOST


def loss_difference(found: Outcome, expected: Outcome) -> float:
    pairs = zip(found.losses, expected.losses, strict=True)
    return max((abs(ours - theirs) / abs(theirs) for ours, theirs in pairs), default=0.0)


def idle(name: str, family: str) -> torch.Tensor:
    """Which entries of a fused projection's bias change no logit: a key's bias adds the same to all of a query's
    scores, and softmax removes it. Their gradient is rounding noise, which AdamW with its default epsilon scales up to
    whole steps; so the trainings agree everywhere but there. Rotary position embeddings (a quarter of NeoX's
    dimensions) undo this.
    """
    if family not in ("gpt2", "gpt_neox") and name.endswith((".key.bias", ".k_lin.bias")):
        return torch.ones(32, dtype=torch.bool)
    bias = torch.zeros(96, dtype=torch.bool)
    if family == "gpt2" and name.endswith(("c_attn.bias", "c_attn.base_layer.bias")):
        bias[32:64] = True
    if family == "gpt_neox" and name.endswith("query_key_value.bias"):
        bias.view(4, 3, 8)[:, 1, 2:] = True
    return bias


def compare_weights(found: Outcome, expected: Outcome, family: str) -> tuple[float, float]:
    """Share of entries that differ by more than TOLERANCE of their parameter's scale, and the largest difference.

    That share is not 0: where a gradient passes within rounding (1e-9) of zero, AdamW's quotient g / (|g| + EPSILON)
    turns the rounding into a part of a step. It happens to single entries; any real difference moves all of them.
    """
    count, beyond, largest = 0, 0, 0.0
    for name, trained in expected.after.items():
        kept = ~idle(name, family) if idle(name, family).shape == trained.shape else torch.ones_like(trained).bool()
        if not kept.any():
            continue
        apart = (found.after[name] - trained).abs()[kept]
        count, beyond = count + apart.numel(), beyond + int((apart > TOLERANCE * trained.abs().max()).sum())
        largest = max(largest, float(apart.max()))
    return beyond / count, largest


class Undecayed(Recorded):
    """Spares (IA)^3's vectors, which Trainer cannot know of."""

    def get_decay_parameter_names(self, model: Any) -> list[str]:
        return [name for name in super().get_decay_parameter_names(model) if "ia3_l" not in name]


@dataclass(frozen=True)
class ByPeft:
    """A method of afina and its settings, the same in peft, and what the settings of each family have besides."""

    method: str
    given: Mapping[str, Any]
    settings: Callable[..., Any]
    own: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    trainer: type[Recorded] = Recorded


CONV: Mapping[str, Mapping[str, Any]] = {"gpt2": {"fan_in_fan_out": True}}
NAMED: Mapping[str, Mapping[str, Any]] = {
    "gpt2": {"target_modules": ["c_attn"], "fan_in_fan_out": True},
    "llama": {"target_modules": ["q_proj", "k_proj", "v_proj"]},
}
LOW: dict[str, Any] = {"r": 4, "lora_alpha": 16, "lora_dropout": 0.0}


def _lora(own: Mapping[str, Mapping[str, Any]] = NAMED, given: Mapping[str, Any] | None = None, **said: Any) -> ByPeft:
    return ByPeft("lora", {"dropout": 0, **(given or {})}, partial(LoraConfig, **LOW, **said), own)


BY_PEFT = {
    "lora": _lora(),
    "rslora": _lora(given={"rslora": True}, use_rslora=True),
    "dora": _lora(given={"dora": True}, use_dora=True),
    "gaussian": _lora(given={"init": "gaussian"}, init_lora_weights="gaussian"),
    "orthogonal": _lora(given={"init": "orthogonal"}, init_lora_weights="orthogonal"),
    "all-linear": _lora(CONV, {"targets": "all-linear"}, target_modules="all-linear"),
    "lora+bitfit": ByPeft("lora+bitfit", {"lora": {"dropout": 0}}, partial(LoraConfig, bias="all", **LOW), NAMED),
    "ia3": ByPeft("ia3", {}, IA3Config, CONV, Undecayed),
    "vera": ByPeft("vera", {"r": 16}, partial(VeraConfig, r=16, save_projection=False), CONV),
    "miss": ByPeft("peft", {"type": "MISS", "settings": {"r": 4}}, partial(MissConfig, r=4)),
    "hira": ByPeft("peft", {"type": "HIRA", "settings": {"r": 4}}, partial(HiraConfig, r=4), CONV),
    "ln_tuning": ByPeft("peft", {"type": "LN_TUNING"}, LNTuningConfig),
}
"""What peft implements, by a name of these tests."""

ONE_FAMILY = {name: ("gpt2", "llama")[place % 2] for place, name in enumerate(BY_PEFT)} | {"miss": "llama"}
"""The family on which each is tried; MISS has no meaning for GPT-2's layers."""
