"""Token types of pairs: those of the tokenizer's own call, in batches, in the cache and in the engine's encoding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BertTokenizer, PreTrainedTokenizerFast

from afina import Backbone
from afina.data.batch import Loader, MicroBatchLimits, Packed, by_length, pack, pack_some
from afina.data.concurrent_tokenizer import ConcurrentTokenizer
from afina.data.split import Split
from afina.data.template import Template
from afina.data.token_cache import encode_split
from afina.data.tokenize import Encoded, encode
from afina.errors import InvalidStudy
from fakes import LONG, TEXTS, parts_of, sentences
from raises import raises

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
OTHERS = TEXTS[::-1]
LENGTHS = [4, 9, 20, 200]


def word_pieces(side: str = "right", **changes: Any) -> PreTrainedTokenizerFast:
    """BERT's kind of tokenizer, trained here; `changes` replace what `TemplateProcessing` is given."""
    inner = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    inner.normalizer, inner.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=SPECIAL, show_progress=False)
    inner.train_from_iterator([*(text for text, _ in sentences(200)), *TEXTS], trainer)
    form = {"single": "[CLS] $A [SEP]", "pair": "[CLS] $A [SEP] $B:1 [SEP]:1"} | changes
    special = [(token, SPECIAL.index(token)) for token in ("[CLS]", "[SEP]")]
    inner.post_processor = processors.TemplateProcessing(**form, special_tokens=special)
    marks = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIAL, strict=True))
    names = ["input_ids", "token_type_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=inner, truncation_side=side, model_input_names=names, **marks)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return word_pieces()


def types_of(packed: Packed) -> list[list[int]]:
    assert packed.types is not None
    assert packed.types.dtype == torch.int64
    return [row.tolist() for row in packed.by_sequence(packed.types)]


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("made", [lambda one: one, ConcurrentTokenizer])
def test_types_of_pairs_are_those_of_the_tokenizers_own_call(side: str, length: int, made: Any) -> None:
    own = word_pieces(side)
    expected = own(list(TEXTS), list(OTHERS), truncation=True, max_length=length)
    found = encode(made(own), TEXTS, OTHERS, max_length=length)
    packed = pack_some(found, np.arange(len(TEXTS)))
    assert types_of(packed) == expected["token_type_ids"]
    assert [row.tolist() for row in packed.by_sequence(packed.tokens)] == expected["input_ids"]
    assert found.second is not None
    assert found.second.dtype == np.int32


def test_a_saved_bert_tokenizer_has_types(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    own = BertTokenizer(vocab=tokenizer.get_vocab())
    found = encode(own, ["a"], ["a ferry"], max_length=9)
    assert types_of(pack_some(found, [0])) == own(["a"], ["a ferry"])["token_type_ids"]


def test_there_are_no_types_without_pairs_in_a_template_or_where_the_model_reads_none(
    tokenizer: PreTrainedTokenizerFast, gpt2: Backbone
) -> None:
    template = Template("{text} and {text_pair}")
    assert encode(tokenizer, TEXTS, max_length=9).second is None
    assert encode(tokenizer, TEXTS, OTHERS, max_length=19, template=template).second is None
    assert encode(gpt2.tokenizer, TEXTS, OTHERS, max_length=9).second is None
    assert pack([np.array([5, 6])]).types is None


def test_types_in_another_order_are_refused() -> None:
    own = word_pieces(pair="[CLS]:1 $A:0 [SEP]:0 $B:1 [SEP]:1")
    with raises(InvalidStudy, code="backbone.unsupported", found=[0, 1]):
        encode(own, ["a"], ["b"], max_length=9)


def test_types_stay_with_their_sequences_in_every_batch(tokenizer: PreTrainedTokenizerFast) -> None:
    encoded = encode(tokenizer, TEXTS, OTHERS, max_length=20)
    expected = types_of(pack_some(encoded, np.arange(len(encoded))))
    labels = np.arange(len(encoded))
    for batch in Loader(encoded, labels, 3, 0).batches(0, 5):
        assert types_of(batch) == [expected[label] for label in batch.targets.tolist()]
        parts = parts_of(MicroBatchLimits(tokens=20), batch)
        assert [kind for part in parts for kind in types_of(part.to("cpu"))] == [
            expected[label] for part in parts for label in part.targets.tolist()
        ]
    for chosen, batch in by_length(encoded, 40):
        assert types_of(batch) == [expected[index] for index in chosen]
    assert types_of(pack_some(encoded.first(3), [2])) == expected[2:3]
    seconds = [None if index % 2 else int(encoded.second[index]) for index in labels]  # type: ignore[index]
    mixed = Encoded.of([encoded[index] for index in labels], second=seconds)
    for index, row in enumerate(types_of(pack_some(mixed, labels))):
        assert row == ([0] * len(row) if index % 2 else expected[index])
    assert Encoded.of([encoded[0]], second=[None]).second is None


@pytest.mark.parametrize("damage", [False, True])
def test_types_are_in_the_cache(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: bool
) -> None:
    monkeypatch.setenv("AFINA_CACHE", str(tmp_path))
    monkeypatch.setattr("afina.data.tokenize._CHUNK", 3)
    split = Split(list(TEXTS), np.arange(len(TEXTS)) % 2, list(OTHERS))
    expected = encode(tokenizer, TEXTS, OTHERS, max_length=20)
    for _ in range(2):
        found = encode_split(tokenizer, "sha256:1", split, max_length=20)
        assert isinstance(found.second, np.memmap)
        for name in ("tokens", "offsets", "second"):
            given, wanted = getattr(found, name), getattr(expected, name)
            assert given.dtype == wanted.dtype
            assert np.array_equal(given, wanted)
        if damage:
            (file,) = tmp_path.glob("encodings/*/second.npy")
            file.write_bytes(file.read_bytes()[:-4])
    single = encode_split(tokenizer, "sha256:1", Split([LONG], np.zeros(1, np.int64)), max_length=20)
    assert single.second is None
