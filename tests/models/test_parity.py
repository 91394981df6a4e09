"""Packed logits are transformers' own, for every family, in any company and order."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from afina import Backbone
from afina.data.batch import IGNORED, pack, pack_some
from afina.data.tokenize import encode
from afina.errors import InvalidStudy
from afina.models.architectures import ARCHITECTURES
from afina.models.classifier import Classifier
from afina.models.kernels.attention import NAME
from afina.models.objective import SINGLE_LABEL, Opening
from fakes import LONG, SLOW, TEXTS, UNUSUAL, WINDOW, Backbones, configuration, difference, reference, save
from grid import by_family
from raises import raises

TOLERANCE = 1e-5
LABELS = ("no", "perhaps", "yes")


TOKENS = Opening("", "token_classifier")
CLASSIFYING_TOKENS = [family for family, entry in ARCHITECTURES.items() if entry.token_head is not None]


class Pair:
    """A backbone opened twice: by afina, and by transformers with its own attention and padding.

    Logits of a token classifier are those of every second token.
    """

    def __init__(self, backbone: Backbone, opening: Opening = SINGLE_LABEL) -> None:
        self.backbone, self.by_token = backbone, opening == TOKENS
        self.packed = Classifier.open(backbone, LABELS, seed=0, opening=opening).eval()
        self.padded = reference(backbone.path, self.packed, len(LABELS), backbone.tokenizer.pad_token_id)

    def sequences(self, texts: Any = TEXTS, pairs: Any = None) -> list[np.ndarray]:
        encoded = encode(self.backbone.tokenizer, texts, pairs, max_length=self.backbone.longest)
        return [encoded[index] for index in range(len(encoded))]

    @torch.inference_mode()
    def ours(self, sequences: list[np.ndarray]) -> torch.Tensor:
        if not self.by_token:
            return self.packed(pack(sequences))
        targets = [np.where(np.arange(len(sequence)) % 2, IGNORED, 0) for sequence in sequences]
        return self.packed(pack(sequences, targets, per_token=True))

    @torch.inference_mode()
    def theirs(self, texts: Any, pairs: Any = None) -> torch.Tensor:
        """Right-padded by the tokenizer itself."""
        batch = self.backbone.tokenizer(list(texts), pairs, padding=True, padding_side="right", return_tensors="pt")
        typed = self.backbone.architecture.token_types and self.backbone.config.type_vocab_size > 1
        names = ("input_ids", "attention_mask", *(("token_type_ids",) if typed else ()))
        logits = self.padded(**{name: batch[name] for name in names if name in batch}).logits
        if not self.by_token:
            return logits
        lengths = batch["attention_mask"].sum(1).tolist()
        return torch.cat([row[:length:2] for row, length in zip(logits, lengths, strict=True)])


@pytest.fixture(scope="module", params=by_family(ARCHITECTURES, SLOW))
def pair(request: pytest.FixtureRequest, backbones: Backbones) -> Pair:
    return Pair(Backbone.load(str(backbones.path(request.param))))


@pytest.fixture(scope="module", params=CLASSIFYING_TOKENS)
def tagging(request: pytest.FixtureRequest, backbones: Backbones) -> Pair:
    return Pair(Backbone.load(str(backbones.path(request.param))), TOKENS)


def test_the_texts_and_the_reference_can_show_a_difference(pair: Pair) -> None:
    """A single token, a text longer than the window, logits far apart, and transformers' own attention beside ours."""
    lengths = [len(sequence) for sequence in pair.sequences()]
    assert len(pair.backbone.tokenizer("a", add_special_tokens=False)["input_ids"]) == 1
    assert max(lengths) > 3 * WINDOW
    assert max(lengths) > 2 * sorted(lengths)[-2]
    assert pair.padded.config._attn_implementation == "sdpa"
    assert pair.packed.model.config._attn_implementation == NAME
    logits = pair.ours(pair.sequences())
    apart = (logits[:, None] - logits).abs().amax(-1) + torch.eye(len(logits)) * 1e9
    assert apart.min() > 1000 * TOLERANCE * logits.abs().max()


def test_packed_logits_are_those_of_each_text_alone(pair: Pair) -> None:
    alone = torch.cat([pair.theirs([text]) for text in TEXTS])
    assert difference(pair.ours(pair.sequences()), alone) <= TOLERANCE


def test_packed_logits_of_tokens_are_those_of_each_text_alone_in_any_company(tagging: Pair) -> None:
    alone = torch.cat([tagging.theirs([text]) for text in TEXTS])
    assert difference(tagging.ours(tagging.sequences()), alone) <= TOLERANCE
    assert difference(tagging.theirs(TEXTS), alone) <= TOLERANCE
    texts = TEXTS[::-1][:3]
    found = tagging.ours(tagging.sequences(texts))
    assert difference(found, torch.cat([tagging.theirs([text]) for text in texts])) <= TOLERANCE


def test_a_token_classifier_has_the_names_of_transformers_and_the_digest_of_its_backbone(tagging: Pair) -> None:
    assert type(tagging.packed.model) is type(tagging.padded)
    assert tagging.packed.model.config.id2label == dict(enumerate(LABELS))
    assert tagging.packed.model.config.problem_type is None
    again = Backbone.load(tagging.backbone.address)
    assert again.digest_of(tagging.packed.body) == tagging.backbone.digest == Backbone.load(again.address).digest


def test_a_family_without_a_token_classifier_is_refused(backbones: Backbones) -> None:
    backbone = Backbone.load(str(backbones.path("gptj")))
    with raises(InvalidStudy, code="backbone.family-unsupported", family="gptj"):
        Classifier.open(backbone, LABELS, 0, opening=TOKENS)


def test_a_single_token_gives_its_own_logits_alone_and_beside_others(pair: Pair) -> None:
    bare = np.array(pair.backbone.tokenizer("a", add_special_tokens=False)["input_ids"])
    with torch.inference_mode():
        expected = pair.padded(input_ids=torch.tensor(bare)[None]).logits
    assert difference(pair.ours([bare]), expected) <= TOLERANCE
    assert difference(pair.ours([bare, *pair.sequences([LONG]), bare])[[0, 2]], expected.repeat(2, 1)) <= TOLERANCE


def test_neighbours_and_order_never_change_a_row(pair: Pair) -> None:
    sequences = pair.sequences()
    alone = torch.cat([pair.ours([sequence]) for sequence in sequences])
    order = np.random.default_rng(1).permutation(len(sequences))
    for size in (2, 3, len(order)):
        found = torch.cat(
            [pair.ours([sequences[i] for i in order[at : at + size]]) for at in range(0, len(order), size)]
        )
        assert difference(found, alone[order]) <= TOLERANCE


@torch.inference_mode()
def test_pairs_are_joined_as_the_tokenizer_joins_them(pair: Pair) -> None:
    seconds = list(reversed(TEXTS[2:]))
    encoded = encode(pair.backbone.tokenizer, TEXTS[2:], seconds, max_length=pair.backbone.longest)
    found = pair.packed(pack_some(encoded, range(len(encoded))))
    assert difference(found, pair.theirs(TEXTS[2:], seconds)) <= TOLERANCE
    assert difference(found, pair.ours(pair.sequences(TEXTS[2:]))) > 1000 * TOLERANCE
    untyped = pair.ours([encoded[index] for index in range(len(encoded))])
    typed = pair.backbone.family in {"bert", "electra"}
    assert (difference(found, untyped) > 1000 * TOLERANCE) if typed else torch.equal(found, untyped)


def test_mistrals_window_hides_what_lies_beyond_it(backbones: Backbones) -> None:
    """Two layers of a window of W tokens see at most 2 (W - 1) tokens back."""
    pair = Pair(Backbone.load(str(backbones.path("mistral"))))
    (sequence,) = pair.sequences([LONG])
    beyond, within = sequence.copy(), sequence.copy()
    beyond[len(sequence) - 1 - 2 * (WINDOW - 1) - 1] += 1
    within[len(sequence) - 1 - 2 * (WINDOW - 1)] += 1
    original, changed, nearer = (pair.ours([tokens]) for tokens in (sequence, beyond, within))
    assert torch.equal(changed, original)
    assert not torch.equal(nearer, original)


def test_the_kernel_for_longer_texts_gives_the_same_logits(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    sequences = pair.sequences()
    expected = pair.ours(sequences)
    monkeypatch.setattr("afina.models.kernels.attention.SHORT", 0)
    found = pair.ours(sequences)
    assert difference(found, expected) <= TOLERANCE
    assert not torch.equal(found, expected)  # another kernel rounds otherwise


@pytest.mark.parametrize("family", by_family(ARCHITECTURES, SLOW))
def test_unusual_configurations_of_a_family_are_packed_as_exactly(
    backbones: Backbones, tmp_path: Path, family: str
) -> None:
    config = configuration(family, **UNUSUAL[family])
    assert all(getattr(config, name) == value for name, value in UNUSUAL[family].items())
    pair = Pair(Backbone.load(str(save(config, backbones.tokenizer(family), tmp_path))))
    usual = Pair(Backbone.load(str(backbones.path(family))))
    alone = torch.cat([pair.theirs([text]) for text in TEXTS])
    assert difference(pair.ours(pair.sequences()), alone) <= TOLERANCE
    assert difference(usual.ours(usual.sequences()), alone) > 1000 * TOLERANCE


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_a_position_encoding_that_follows_the_longest_text_of_a_batch_is_refused(
    backbones: Backbones, tmp_path: Path, kind: str
) -> None:
    place = tmp_path / "model"
    shutil.copytree(backbones.path("llama"), place)
    config = json.loads((place / "config.json").read_text())
    parameters = {"rope_theta": 1e4, "factor": 2.0, "original_max_position_embeddings": 64}
    if kind == "longrope":
        half = config["hidden_size"] // config["num_attention_heads"] // 2
        parameters |= {"short_factor": [1.0] * half, "long_factor": [2.0] * half}
    config["rope_parameters"] = {"rope_type": kind, **parameters}
    (place / "config.json").write_text(json.dumps(config))
    with raises(InvalidStudy, code="backbone.unsupported"):
        Backbone.load(str(place))
