"""Prompt and prefix tuning, packed, are transformers' own models with the virtual tokens before each text alone."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, LlamaModel

from afina import Backbone
from afina.data.batch import Loader, MicroBatchLimits, by_length, pack
from afina.data.tokenize import Encoded
from afina.errors import CorruptAdapter, InvalidStudy
from afina.methods import make
from afina.models.adapter import Adapter
from afina.models.added_modules import attentions, prefix_of, prompt_of
from afina.models.architectures import ARCHITECTURES
from afina.models.classifier import Classifier
from afina.predicting.golden_test import check
from afina.predicting.predictor import ModelPredictor, Predictor
from afina.studies.runs.prepared import longest_text
from fakes import (
    LONGEST,
    TEXTS,
    WINDOW,
    Backbones,
    Runs,
    changed,
    difference,
    encoded,
    fit_of,
    opened,
    reference,
    sentences,
)
from raises import raises

TOLERANCE = 1e-5
TOKENS = 5
"""So many virtual ones; some texts of TEXTS have fewer, and one is longer than Mistral's window without them."""

CACHE = "cache" if "cache" in inspect.signature(LlamaModel.forward).parameters else "past_key_values"
"""What transformers calls it: the former since 5.24."""

BOTH = ("prompt", "prefix")
FAMILIES = [family for family, entry in ARCHITECTURES.items() if entry.takes_virtual_tokens]
CASES = [(family, name) for family in FAMILIES for name in BOTH]


class Alone:
    """transformers' own classifier, in which virtual tokens stand before one text at a time."""

    def __init__(self, backbone: Backbone, seed: int = 0) -> None:
        plain = Classifier.open(backbone, ("bad", "good"), seed)
        self.model = reference(backbone.path, plain, 2, backbone.tokenizer.pad_token_id).requires_grad_(False)
        self.window = getattr(backbone.config, "sliding_window", None)

    def logits(self, tokens: np.ndarray, table: Tensor | None, columns: list[tuple[Tensor, Tensor]]) -> Tensor:
        """[1, 2]. table [K, width] of a prompt; columns: key and value of each layer, [P, G, D], of a prefix."""
        rows = self.model.get_input_embeddings()(torch.from_numpy(tokens.astype(np.int64)))
        rows = rows if table is None else torch.cat([table, rows])
        given: dict[str, Any] = {}
        if columns:
            given[CACHE] = DynamicCache([tuple(each.transpose(0, 1)[None] for each in layer) for layer in columns])
            if self.window is not None:
                given["attention_mask"] = self._mask(len(rows), len(columns[0][0]))
        return self.model(inputs_embeds=rows[None], **given).logits

    def _mask(self, length: int, before: int) -> Tensor:
        """A token sees the prefix whatever the window is, and in the window what transformers lets it see."""
        apart = torch.arange(length)[:, None] - torch.arange(length)
        seen = (apart >= 0) & (apart < self.window)
        return torch.cat([torch.ones(length, before, dtype=torch.bool), seen], 1)[None, None]


def virtual(classifier: Classifier) -> tuple[Tensor | None, list[tuple[Tensor, Tensor]]]:
    """What a classifier has, as `Alone` takes it."""
    prompt = prompt_of(classifier.body)
    prefixes = [prefix_of(attention) for attention in attentions(classifier.body)]
    return None if prompt is None else prompt.weight, [(one.key, one.value) for one in prefixes if one]


def disturbed(backbone: Backbone, name: str, seed: int = 0) -> Classifier:
    """With virtual tokens that are nothing that the model makes itself."""
    parts = {part: {"tokens": TOKENS} for part in name.split("+") if part in BOTH}
    method = make(name, parts if "+" in name else parts[name]).for_family(backbone.family)
    classifier = opened(backbone, method, seed)
    with torch.no_grad():
        for parameter in method.trainable(classifier.model).values():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return classifier


def texts(backbone: Backbone) -> list[np.ndarray]:
    tokens, _ = encoded(backbone, [(text, 0) for text in TEXTS])
    return [tokens[index] for index in range(len(tokens))]


def together(classifier: Classifier, sequences: list[np.ndarray]) -> Tensor:
    with torch.inference_mode():
        return classifier.eval()(pack(sequences))


def alone(backbone: Backbone, classifier: Classifier, sequences: list[np.ndarray]) -> Tensor:
    """What transformers gives, under the classifier's head."""
    by_itself = Alone(backbone)
    heads = [p for name, p in classifier.model.named_parameters() if "score" in name and "original" not in name]
    by_itself.model.score.weight.data.copy_(heads[0])
    with torch.no_grad():
        return torch.cat([by_itself.logits(tokens, *virtual(classifier)) for tokens in sequences])


@pytest.mark.parametrize(("family", "name"), [*CASES, ("gpt2", "prompt+prefix"), ("llama", "prefix+prompt")])
def test_packed_logits_are_those_of_transformers_one_text_at_a_time(
    backbones: Backbones, family: str, name: str
) -> None:
    backbone = Backbone.load(str(backbones.path(family)))
    classifier, sequences = disturbed(backbone, name), texts(backbone)
    assert min(map(len, sequences)) < TOKENS < WINDOW < max(map(len, sequences)) - TOKENS
    found, expected = together(classifier, sequences), alone(backbone, classifier, sequences)
    assert difference(found, expected) <= TOLERANCE
    without = together(Classifier.open(backbone, ("bad", "good"), 0), sequences)
    assert difference(without, expected) > 1000 * TOLERANCE


@pytest.mark.parametrize(("family", "name"), [("gpt2", "prompt"), ("llama", "prefix"), ("mistral", "prefix")])
def test_the_kernel_for_longer_texts_gives_the_same_logits(
    backbones: Backbones, family: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = Backbone.load(str(backbones.path(family)))
    classifier, sequences = disturbed(backbone, name), texts(backbone)
    expected = together(classifier, sequences)
    monkeypatch.setattr("afina.models.kernels.attention.SHORT", 0)
    found = together(classifier, sequences)
    assert difference(found, expected) <= TOLERANCE
    assert not torch.equal(found, expected)  # another kernel rounds otherwise


def test_a_prefix_within_mistrals_window_is_transformers_own_and_is_seen_beyond_it_too(backbones: Backbones) -> None:
    backbone = Backbone.load(str(backbones.path("mistral")))
    classifier, sequences = disturbed(backbone, "prefix"), texts(backbone)
    plain = Alone(backbone)
    plain.window = None  # transformers makes its own mask
    plain.model.score.weight.data.copy_(classifier.model.score.weight)
    short = [sequence for sequence in sequences if len(sequence) + TOKENS <= WINDOW]
    with torch.no_grad():
        expected = torch.cat([plain.logits(sequence, *virtual(classifier)) for sequence in short])
    assert len(short) > 1
    assert difference(together(classifier, short), expected) <= TOLERANCE
    long = max(sequences, key=len)
    before = together(classifier, [long])
    for attention in attentions(classifier.body):
        prefix_of(attention).value.data.add_(1.0)
    assert difference(together(classifier, [long]), before) > 0.01


@pytest.mark.parametrize("family", FAMILIES)
def test_both_start_as_the_same_words_before_every_text(backbones: Backbones, family: str) -> None:
    """A causal model's keys and values of words are what a text sees of them, wherever the words are kept."""
    backbone = Backbone.load(str(backbones.path(family)))
    sequences = [sequence for sequence in texts(backbone) if len(sequence) + TOKENS <= WINDOW or family != "mistral"]
    prompt, prefix = (opened(backbone, make(name, {"tokens": TOKENS}).for_family(family)) for name in BOTH)
    table, _ = virtual(prompt)
    assert table is not None
    vocabulary = prompt.body.get_input_embeddings().weight
    assert (table[:, None] == vocabulary).all(-1).any(-1).all()
    assert difference(together(prefix, sequences), together(prompt, sequences)) <= TOLERANCE


# Training


STEPS, SEED, RATE, SIZE = 20, 3, 5e-3, 2


def by_itself(backbone: Backbone, classifier: Classifier, data: Any) -> tuple[list[float], list[Tensor]]:
    """Losses, and what was trained, of a plain loop over transformers' own model, one text at a time."""
    tokens, labels = data
    model = Alone(backbone, SEED)
    head = model.model.score.weight.requires_grad_(True)
    table, columns = virtual(classifier)
    table = None if table is None else table.detach().clone().requires_grad_(True)
    columns = [tuple(each.detach().clone().requires_grad_(True) for each in layer) for layer in columns]  # type: ignore[misc]
    trained = [*([] if table is None else [table]), *(each for layer in columns for each in layer), head]
    optimizer = torch.optim.AdamW(trained, lr=RATE, weight_decay=0.1)
    loader, losses = Loader(tokens, labels, SIZE, SEED), []
    for step in range(STEPS):
        chosen = loader.indices(step)
        logits = torch.cat([model.logits(tokens[index], table, columns) for index in chosen])
        loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels[chosen]))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.param_groups[0]["lr"] = RATE * (STEPS - step) / STEPS
        optimizer.step()
        losses.append(loss.item())
    return losses, trained


@pytest.mark.parametrize(("family", "name"), [("gpt2", "prompt"), ("llama", "prefix")])
def test_steps_are_those_of_a_plain_loop_over_transformers_own_model(
    backbones: Backbones, family: str, name: str
) -> None:
    backbone = Backbone.load(str(backbones.path(family, dropout=0.0)))
    method, data = make(name, {"tokens": TOKENS}).for_family(family), encoded(backbone, sentences(30))
    classifier = opened(backbone, method, SEED)
    losses, trained = by_itself(backbone, classifier, data)
    fit = fit_of(classifier, method, data, steps=STEPS, learning_rate=RATE, seed=SEED)
    changed(fit, Loader(*data, SIZE, SEED))
    before = [parameter.detach().clone() for parameter in fit.parameters.values()]
    fit.advance()
    assert fit.account.losses == pytest.approx(losses, rel=TOLERANCE)
    assert len(trained) == len(before)
    for start, found, expected in zip(before, fit.parameters.values(), trained, strict=True):
        moved = (expected - start).abs().mean()
        assert moved > 1e-3
        assert (found - expected).abs().mean() < 1e-3 * moved


@pytest.mark.parametrize("name", BOTH)
def test_bfloat16_computes_in_lowered_virtual_tokens_and_trains_their_float32_masters(
    gpt2: Backbone, name: str
) -> None:
    method = make(name).for_family("gpt2")
    fit = fit_of(opened(gpt2, method), method, encoded(gpt2, sentences(30)), dtype=torch.bfloat16)
    names = [each for each in fit.parameters if name in each.split(".")]
    assert names
    before = {each: fit.weights.trained[each].detach().clone() for each in names}
    fit.advance()
    for each in names:
        master, lowered = fit.weights.trained[each], fit.parameters[each]
        assert (master.dtype, lowered.dtype) == (torch.float32, torch.bfloat16)
        assert not torch.equal(master, before[each])
        assert torch.equal(lowered, master.bfloat16())
    packed = next(fit.loader.batches(0, 1))
    with torch.no_grad():
        expected = fit.classifier.eval()(packed)
        for each in names:
            fit.parameters[each].add_(1.0)
        assert not torch.equal(fit.classifier(packed), expected)


# What cannot be


@pytest.mark.parametrize("name", BOTH)
def test_so_many_that_no_text_has_room_or_none_at_all_is_an_error_that_says_what_is_usual(
    gpt2: Backbone, name: str
) -> None:
    with raises(InvalidStudy, code="method.setting-invalid", tokens=0):
        make(name, {"tokens": 0})
    for tokens in (LONGEST, 10**12):
        with raises(InvalidStudy, code="method.setting-invalid"):
            opened(gpt2, make(name, {"tokens": tokens}))
    assert opened(gpt2, make(name, {"tokens": LONGEST - 1})).before == LONGEST - 1
    both = make(f"lora+{name}")
    assert opened(gpt2, both.for_family("gpt2")).before == both.takes_positions == 16


@pytest.mark.parametrize("name", [*BOTH, "lora+prefix"])
def test_saved_virtual_tokens_of_another_number_are_refused_before_there_are_any(gpt2: Backbone, name: str) -> None:
    method = make(name).for_family("gpt2")
    plain = Classifier.open(gpt2, ("bad", "good"), 0).model
    state = dict(method.state(opened(gpt2, method).model))
    method.check(plain, state)
    part = name.rpartition("+")[2]
    added = [key for key in state if part in key.split(".")]
    with raises(CorruptAdapter, code="adapter.tensors-mismatch"):
        method.check(plain, {key: tensor for key, tensor in state.items() if key not in added})
    for tensor in (torch.zeros(3, 4, 8), torch.zeros(16)):
        with raises(CorruptAdapter, code="adapter.tensors-mismatch", tokens=16):
            method.check(plain, state | {added[0]: tensor})


# What is left to a text


@pytest.mark.parametrize("name", BOTH)
def test_a_text_may_have_as_many_fewer_tokens_as_there_are_virtual_ones(runs: Runs, gpt2: Backbone, name: str) -> None:
    run = runs.run("gpt2", name)
    assert longest_text(run, 1024) == 512
    assert longest_text(run, LONGEST) == LONGEST - 16
    assert longest_text(runs.run("gpt2", name, max_length=LONGEST - 16), LONGEST) == LONGEST - 16
    with raises(InvalidStudy, code="run.max-length", found=241):
        longest_text(runs.run("gpt2", name, max_length=LONGEST - 15), LONGEST)
    with raises(InvalidStudy, code="run.max-length", tokens=16):
        longest_text(run, 16)
    predictor = Predictor.load(runs.adapter("gpt2", name))
    assert isinstance(predictor, ModelPredictor)
    assert predictor.manifest.max_length == predictor.max_length == LONGEST - 16
    long = "so it was, " * LONGEST
    assert predictor.predict([long])[1] == 1
    check(predictor)
    adapter = Adapter.load(runs.adapter("gpt2", name))
    longer = replace(adapter, manifest=adapter.manifest.model_copy(update={"max_length": LONGEST - 15}))
    with raises(CorruptAdapter, code="adapter.file-malformed", found=241):
        Predictor.of(longer, gpt2)


def test_virtual_tokens_count_where_the_tokens_that_are_computed_at_once_are_limited() -> None:
    lengths = [2, 2, 2, 2, 9]
    tokens, labels = Encoded(np.zeros(17, np.int32), np.cumsum([0, *lengths]), 0), np.zeros(5, np.int64)
    assert [len(part) for part in MicroBatchLimits(tokens=10, before=3).cut(np.array(lengths))] == [2, 2, 1]
    assert [len(part) for part in MicroBatchLimits(tokens=10).cut(np.array(lengths))] == [4, 1]
    assert [len(packed) for _, packed in by_length(tokens, 10, before=3)] == [2, 2, 1]
    many = Loader(tokens, labels, 5, 0)
    assert len(many.largest(1, MicroBatchLimits(tokens=9))) == 1
    assert (
        len(many.largest(1, MicroBatchLimits(tokens=20, before=3))) == 4
    )  # 20 cells, of which the longest text has 12
