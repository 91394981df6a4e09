"""Training is transformers' Trainer's, step by step: the same losses, weights and parameter groups, without padding."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.optimizers import create_loraplus_optimizer
from sklearn.utils.class_weight import compute_class_weight
from transformers import Trainer, TrainingArguments

from afina import METHODS, Backbone, Run, methods
from afina.data.batch import Loader, MicroBatchLimits, pack
from afina.data.tokenize import Encoded
from afina.errors import InvalidStudy
from afina.methods import make as make_by_name
from afina.methods.attachment import attach
from afina.methods.method import Method
from afina.models import objectives
from afina.models.architectures import ARCHITECTURES
from afina.models.classifier import Classifier
from afina.training.fit import Fit
from afina.training.optimizer import make_optimizer
from afina.training.recipe import Recipe
from afina.training.settings import Training
from fakes import BATCH, Backbones, changed, encoded, fit_of, opened, recipe, reference, sentences
from grid import some_slow, thinned
from raises import raises
from trainer import (
    BEYOND,
    BY_PEFT,
    DECAY,
    EPSILON,
    FEW,
    MOST,
    ONE_FAMILY,
    RATE,
    RECIPE,
    SEED,
    STEPS,
    TOLERANCE,
    Outcome,
    Padded,
    arguments,
    by_afina,
    by_trainer,
    compare,
    compare_weights,
    idle,
    load,
    loss_difference,
    well_conditioned,
)

# peft asks transformers for a property that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")

TARGETS = {
    "gpt2": ("c_attn",),
    "gpt_neox": ("query_key_value",),
    **dict.fromkeys(("llama", "qwen2"), ("q_proj", "k_proj", "v_proj")),
    "modernbert": ("Wqkv",),
}
ENCODERS = ("bert", "roberta", "xlm-roberta", "electra", "distilbert", "modernbert")

TRAINED = {
    "head": (".score.",),
    "full": ("",),
    "last": (".h.1.", ".layers.1.", ".ln_f.", ".final_layer_norm.", ".model.norm.", ".score."),
    "bitfit": (".bias", ".score."),
    "layernorm": (".ln_", "norm.", ".score."),
    "prelayer": (".wte.", ".wpe.", ".embed_tokens.", ".embed_in.", ".score."),
    "prelayer-46080": (".ln_1.", ".c_attn.bias", ".score."),
}


def data(backbone: Backbone) -> tuple[Encoded, np.ndarray]:
    """70 sentences: the run is more than 5 epochs of 9 batches, the last of each smaller."""
    return encoded(backbone, sentences(70))


def by_transformers(backbone: Backbone, method: Method) -> Any:
    """The same adapted model without afina: transformers' classifier, and peft for LoRA."""
    plain = Classifier.open(backbone, ("bad", "good"), SEED)
    model = reference(backbone.path, plain, 2, backbone.tokenizer.pad_token_id)
    if method.name.startswith("lora"):
        settings = LoraConfig(
            task_type="SEQ_CLS",
            r=4,
            lora_alpha=16,
            lora_dropout=0.0,
            bias="all" if method.name == "lora+bitfit" else "none",
            target_modules=list(TARGETS[backbone.family]),
            fan_in_fan_out=backbone.family == "gpt2",
            modules_to_save=["head"] if backbone.family == "modernbert" else None,  # which peft does not know
        )
        torch.manual_seed(SEED)
        return get_peft_model(model, settings)
    trained = TRAINED[method.name]
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(any(part in f".{name}" for part in trained))
    return model


HYPERPARAMETERS: dict[str, dict[str, Any]] = {
    "lora": {"dropout": 0.0},
    "lora+bitfit": {"lora": {"dropout": 0.0}},
    "last": {"blocks": 1},
}


def make(name: str, family: str) -> Method:
    return methods.make(name, HYPERPARAMETERS.get(name)).for_family(family)


def ours(backbone: Backbone, method: Method, **changes: Any) -> Outcome:
    return by_afina(
        fit_of(opened(backbone, method, SEED), method, data(backbone), **({"steps": FEW} | RECIPE | changes))
    )


@pytest.fixture(scope="module")
def plain(backbones: Backbones) -> Callable[[str], Outcome]:
    """What a method does to GPT-2 without a change of the recipe; with it, the others are compared."""
    return cache(lambda name: ours(load(backbones, "gpt2"), make(name, "gpt2")))


def padded(backbone: Backbone, length: int = STEPS) -> Padded:
    return Padded(Loader(*data(backbone), BATCH, SEED), backbone.tokenizer.pad_token_id, length)


def theirs(backbone: Backbone, method: Method, path: Path, **changes: Any) -> Outcome:
    return by_trainer(by_transformers(backbone, method), padded(backbone), path, **({"max_steps": FEW} | changes))


CASES = [
    *((family, "full") for family in ("gpt2", "gptj", *ENCODERS)),
    *((family, "lora") for family in ("gpt_neox", "llama", "modernbert")),
    ("gpt_neox", "prelayer"),
    *(("qwen2", name) for name in ("head", "lora+bitfit")),
    ("gpt2", "prelayer-46080"),
    ("mistral", "last"),
    ("gptj", "bitfit"),
    ("qwen3", "layernorm"),
]
"""Every family, and every method that Trainer can express. Full fine-tunings of the other causal families are compared
as language models (`test_text_trainer_parity.py`)."""

QUICK = {("llama", "lora")}


@pytest.mark.parametrize(("family", "name"), some_slow(CASES, QUICK))
def test_losses_rates_and_weights_of_a_training_are_those_of_trainer(
    backbones: Backbones, family: str, name: str, tmp_path: Path, steps: int
) -> None:
    backbone, method = load(backbones, family), make(name, family)
    steps = STEPS if (family, name) == ("gpt2", "full") else steps
    found, expected = ours(backbone, method, steps=steps), theirs(backbone, method, tmp_path, max_steps=steps)
    assert len(expected.losses) == steps
    compare(found, expected, family)


@pytest.mark.slow
def test_label_smoothing_is_trainers(backbones: Backbones, plain: Callable[[str], Outcome], tmp_path: Path) -> None:
    backbone, method = load(backbones, "gpt2"), make("lora", "gpt2")
    found = ours(backbone, method, label_smoothing=0.2)
    expected = theirs(backbone, method, tmp_path, label_smoothing_factor=0.2)
    assert loss_difference(found, expected) <= TOLERANCE
    assert loss_difference(plain("lora"), expected) > 100 * TOLERANCE


@pytest.mark.slow
def test_warm_up_is_trainers(backbones: Backbones, plain: Callable[[str], Outcome], tmp_path: Path) -> None:
    backbone, method = load(backbones, "gpt2"), make("full", "gpt2")
    found = ours(backbone, method, warmup=7)
    expected = theirs(backbone, method, tmp_path, warmup_steps=7)
    assert found.rates == pytest.approx(expected.rates, rel=1e-12)
    assert found.rates[0] == 0.0
    assert max(found.rates) == found.rates[7] == RATE
    assert loss_difference(found, expected) <= TOLERANCE
    assert loss_difference(plain("full"), expected) > 100 * TOLERANCE


@pytest.mark.parametrize("asked", [0.0, 0.06, 0.061, 1.0, 7.0])
def test_a_share_of_the_steps_is_as_many_steps_as_under_trainer(asked: float, tmp_path: Path) -> None:
    found = recipe_of(Training(max_steps=STEPS, warmup=asked)).warmup
    assert found == arguments(tmp_path, warmup_steps=asked).get_warmup_steps(STEPS)
    assert 0 <= recipe_of(Training(max_steps=1, warmup=asked if asked < 1 else 0)).warmup < 1


def test_a_rate_that_only_rises_is_refused() -> None:
    with raises(InvalidStudy, code="option.invalid", option="warmup", found=50.0, steps=STEPS):
        recipe_of(Training(max_steps=STEPS, warmup=STEPS))
    with pytest.raises(ValueError, match="whole number of steps"):
        Training(warmup=2.5)


def recipe_of(training: Training, *, encoder: bool = False, method: str = "full") -> Recipe:
    tokens = Encoded(np.ones(40, np.int32), np.arange(0, 41, 2), 0)
    loader = Loader(tokens, np.zeros(20, np.int64), BATCH, SEED)
    return Recipe.of(training, METHODS[method](), loader, SEED, encoder=encoder)


def test_an_encoder_whose_configuration_was_not_at_hand_is_trained_at_the_rate_of_encoders() -> None:
    rates = [recipe_of(Training(), encoder=one, method="lora").learning_rate for one in (False, True)]
    assert rates == [1e-3, 3e-3]
    assert recipe_of(Training(learning_rate=1e-5), encoder=True).learning_rate == 1e-5


@pytest.mark.slow
def test_a_rate_that_falls_with_depth_is_trainers_with_such_groups(
    backbones: Backbones, plain: Callable[[str], Outcome], tmp_path: Path
) -> None:
    backbone, decay = load(backbones, "gpt2"), 0.5
    method = methods.make("full", {"layer_decay": decay})
    found = ours(backbone, method)
    model = by_transformers(backbone, method)
    of_depth = {"wte": 3, "wpe": 3, "0": 2, "1": 1}  # two blocks, counted from the top
    groups = []
    for name, parameter in model.named_parameters():
        depth = max((of_depth.get(part, 0) for part in name.split(".")), default=0)
        spared = "bias" in name or "ln_" in name
        groups.append({"params": [parameter], "lr": RATE * decay**depth, "weight_decay": 0.0 if spared else DECAY})
    adamw = torch.optim.AdamW(groups, lr=RATE, eps=EPSILON)
    expected = by_trainer(model, padded(backbone), tmp_path, more={"optimizers": (adamw, None)}, max_steps=FEW)
    expected.rates = found.rates  # of one group alone
    compare(found, expected, "gpt2")
    assert loss_difference(plain("full"), found) > 10 * TOLERANCE


ACCUMULATE, LOOSER = 2, 2.0
"""Batches a step, and a largest norm that clips some of their steps and not others, so that scale matters."""


def accumulated_by_trainer(backbone: Backbone, method: Method, path: Path) -> Outcome:
    """Two epochs; losses are those of the batches, over the number of batches in the step.

    Trainer (5.24) leaves that division to models whose forward takes any keyword, as sequence classifiers' does, and
    theirs does not divide: their gradients are sums. So it is told that the model does not: docs/reference/figures.md.
    """
    model = by_transformers(backbone, method)
    model.accepts_loss_kwargs = False
    settings = {"gradient_accumulation_steps": ACCUMULATE, "max_grad_norm": LOOSER}
    return by_trainer(model, padded(backbone, 9), path, num_train_epochs=2, **settings)


@pytest.mark.slow
def test_accumulated_steps_are_trainers_also_at_an_epochs_end(backbones: Backbones, tmp_path: Path) -> None:
    """Nine batches an epoch, two a step: the fifth step has the one that is left, of six examples."""
    backbone, method = load(backbones, "gpt2"), make("full", "gpt2")
    expected = accumulated_by_trainer(backbone, method, tmp_path)
    model, limits = opened(backbone, method, SEED), MicroBatchLimits(examples=BATCH)
    fit = fit_of(model, method, data(backbone), **(RECIPE | {"steps": 10, "clip": LOOSER}), at_once=limits)
    changed(fit, Loader(*data(backbone), BATCH * ACCUMULATE, SEED))
    assert 2 * fit.loader.steps_per_epoch == 10
    found = by_afina(fit)
    batches = iter(expected.losses)
    steps_of_trainer = [sum(islice(batches, count)) for count in [2, 2, 2, 2, 1] * 2]
    assert found.losses == pytest.approx(steps_of_trainer, rel=TOLERANCE)
    beyond, largest = compare_weights(found, expected, "gpt2")
    assert beyond <= BEYOND
    assert largest < MOST


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox"])
def test_the_entries_left_out_of_the_comparison_change_no_logit(backbones: Backbones, family: str) -> None:
    backbone = load(backbones, family)
    classifier = opened(backbone, make("full", family)).eval()
    tokens, _ = data(backbone)
    packed = pack([tokens[index] for index in range(8)])
    biases = {name: p for name, p in classifier.model.named_parameters() if idle(name, family).any()}
    assert len(biases) == 2
    with torch.no_grad():
        logits = classifier(packed)
        for name, parameter in biases.items():
            parameter[idle(name, family)] += torch.linspace(-1, 1, int(idle(name, family).sum()))
        assert (classifier(packed) - logits).abs().max() <= TOLERANCE * logits.abs().max()
        for parameter in biases.values():
            parameter[0] += 1
        assert (classifier(packed) - logits).abs().max() > 100 * TOLERANCE * logits.abs().max()


@pytest.mark.parametrize(
    "change",
    [{"weight_decay": 0.0}, {"clip": 1e9}, {"learning_rate": 1.01e-3}, {"seed": SEED + 1}],
    ids=lambda change: next(iter(change)),
)
def test_a_different_decay_clipping_rate_or_order_shows_in_losses_and_weights(
    backbones: Backbones, plain: Callable[[str], Outcome], change: dict[str, Any]
) -> None:
    found = ours(load(backbones, "gpt2"), make("full", "gpt2"), **change)
    assert loss_difference(found, plain("full")) > 10 * TOLERANCE
    assert compare_weights(found, plain("full"), "gpt2")[0] > 0.5


@pytest.mark.parametrize(("family", "name"), thinned(ARCHITECTURES, ("full", "lora"), whole=("gpt2",), share=2))
def test_the_optimizer_is_trainers_and_decays_the_same_weights(
    backbones: Backbones, family: str, name: str, tmp_path: Path
) -> None:
    method = make(name, family)
    classifier = opened(load(backbones, family), method)
    parameters = method.trainable(classifier.model)
    trainer = Trainer(model=classifier.model, args=arguments(tmp_path))
    assert METHODS[name]().decays(classifier.model) == set(trainer.get_decay_parameter_names(classifier.model))
    made = recipe(steps=STEPS, **RECIPE)
    ours, theirs = make_optimizer(classifier.model, method, parameters, made), trainer.create_optimizer()
    found = groups(ours, parameters)
    assert found == groups(theirs, parameters)
    assert {group["betas"] for group in ours.param_groups} == {group["betas"] for group in theirs.param_groups}
    assert {group["eps"] for group in ours.param_groups} == {TrainingArguments.adam_epsilon}
    assert found[DECAY]
    if name == "full":
        assert found[0.0]


def groups(optimizer: torch.optim.Optimizer, parameters: Mapping[str, torch.Tensor]) -> dict[float, set[str]]:
    """Names by weight decay."""
    names = {id(parameter): name for name, parameter in parameters.items()}
    result: dict[float, set[str]] = {}
    for group in optimizer.param_groups:
        if group["params"]:
            result.setdefault(group["weight_decay"], set()).update(names[id(p)] for p in group["params"])
    return result


def test_max_steps_is_the_horizon_of_the_decay_and_epochs_are_without_it(
    backbones: Backbones, toy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    horizons = []
    advance = Fit.advance

    def watched(self: Fit, *arguments: Any, **named: Any) -> None:
        horizons.append((self.recipe.steps, self.loader.steps_per_epoch))
        advance(self, *arguments, **named)

    monkeypatch.setattr(Fit, "advance", watched)
    path = str(backbones.path("gpt2"))
    for settings in ({"max_steps": 3}, {"epochs": 2}):
        run = Run(backbone=path, task=toy, method="lora", training=Training(batch_size=32, **settings))
        assert run.execute(tmp_path).steps == horizons[-1][0]
    assert horizons[0][0] == 3
    assert horizons[1][0] == 2 * horizons[1][1]
    assert horizons[1][0] != 3


# What peft implements, beside LoRA as it is by default


PEFT_CASES = [(ONE_FAMILY[name], name) for name in BY_PEFT if not name.startswith("lora")]


@pytest.mark.slow
@pytest.mark.parametrize(("family", "name"), PEFT_CASES)
@pytest.mark.filterwarnings("ignore:Specified to not save:UserWarning", "ignore:Unsupported layer type:UserWarning")
def test_what_peft_implements_trains_as_under_trainer(
    backbones: Backbones, family: str, name: str, tmp_path: Path, steps: int
) -> None:
    backbone, case = load(backbones, family), BY_PEFT[name]
    method = make_by_name(case.method, case.given).for_family(family)
    found = ours(backbone, method, steps=steps)
    model = reference(
        backbone.path, Classifier.open(backbone, ("bad", "good"), SEED), 2, backbone.tokenizer.pad_token_id
    )
    torch.manual_seed(SEED)
    model = get_peft_model(model, case.settings(task_type="SEQ_CLS", **case.own.get(family, {})))
    expected = by_trainer(model, padded(backbone), tmp_path, case.trainer, max_steps=steps)
    compare(found, expected, family)


@pytest.mark.slow
def test_lora_plus_is_pefts(backbones: Backbones, plain: Callable[[str], Outcome], tmp_path: Path) -> None:
    backbone = load(backbones, "gpt2")
    method = make_by_name("lora", {"plus": 8.0, "dropout": 0}).for_family("gpt2")
    found = ours(backbone, method)
    model = by_transformers(backbone, method)
    optimizer = create_loraplus_optimizer(
        model,
        torch.optim.AdamW,
        lr=RATE,
        eps=EPSILON,
        loraplus_lr_ratio=8.0,
        weight_decay=DECAY,
        loraplus_weight_decay=DECAY,
    )
    expected = by_trainer(model, padded(backbone), tmp_path, more={"optimizers": (optimizer, None)}, max_steps=FEW)
    assert loss_difference(found, expected) <= TOLERANCE
    assert loss_difference(plain("lora"), expected) > 10 * TOLERANCE


# Kinds of task


def _targets(kind: str, rows: Sequence[tuple[str, int]]) -> np.ndarray:
    """Numbers, rows of three labels, or three classes of differing frequency, from the words of the sentences."""
    longest = max(len(text) for text, _ in rows)
    if kind == "number":
        return np.array([10 + 5 * label + len(text) / longest for text, label in rows])
    if kind == "labels":
        return np.array([[label, "the" in text, len(text) > 40] for text, label in rows], dtype=np.int64)
    return np.array([2 if len(text) > 60 else label for text, label in rows], dtype=np.int64)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "kind"), [("gpt2", "number"), ("modernbert", "labels"), ("llama", "balanced")])
def test_losses_of_every_kind_of_task_are_trainers(
    backbones: Backbones, kind: str, family: str, tmp_path: Path, steps: int
) -> None:
    backbone, rows = load(backbones, family), sentences(70)
    tokens, targets = encoded(backbone, rows)[0], _targets(kind, rows)
    names = ("rating",) if kind == "number" else ("good", "the", "long")
    told = {"kind": "classes" if kind == "balanced" else kind}
    objective = objectives.make(names, told).of(targets, "balanced" if kind == "balanced" else None)
    learnt, method = objective.loss_targets(targets), make("full", family)

    def open_() -> Classifier:
        return Classifier.open(backbone, names, SEED, opening=objective.opening)

    loader = Loader(tokens, learnt, BATCH, SEED)
    classifier = open_()
    attach(classifier, method)
    fit = well_conditioned(Fit(classifier, method, objective, loader, recipe(steps=steps, **RECIPE)))
    fit.advance()
    theirs = reference(backbone.path, open_(), len(names), backbone.tokenizer.pad_token_id)
    theirs.config.problem_type = classifier.model.config.problem_type
    told_loss = {"compute_loss_func": partial(_balanced, targets)} if kind == "balanced" else {}
    batches = Padded(loader, backbone.tokenizer.pad_token_id or 0)
    losses = by_trainer(theirs, batches, tmp_path, more=told_loss, max_steps=steps).losses
    assert len(losses) == len(fit.account.losses) == steps
    assert np.abs(np.array(losses) - fit.account.losses).max() < TOLERANCE * max(1.0, *losses)
    assert min(losses[-5:]) < losses[0]


def _balanced(targets: np.ndarray, outputs: Any, labels: torch.Tensor, **_: Any) -> torch.Tensor:
    """Each text's cross-entropy times what scikit-learn calls its balanced weight, the mean over the batch."""
    weights = torch.tensor(compute_class_weight("balanced", classes=np.arange(3), y=targets), dtype=torch.float32)
    losses = torch.nn.functional.cross_entropy(outputs.logits, labels, reduction="none")
    return (weights[labels] * losses).mean()
