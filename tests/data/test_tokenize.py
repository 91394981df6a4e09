"""Encoding is the tokenizer's own call, without padding; truncation is counted, empty texts are refused."""

from __future__ import annotations

import numpy as np
import pytest

from afina import Backbone
from afina.data.tokenize import Encoded, encode
from afina.errors import InvalidData
from fakes import BEGIN, LONG, TEXTS, sentences
from raises import raises


@pytest.fixture(params=["gpt2", "llama"])
def backbone(request: pytest.FixtureRequest) -> Backbone:
    """GPT-2's tokenizer adds no token of its own, LLaMA's begins every text with one."""
    return request.getfixturevalue(request.param)


def sequences(encoded: Encoded) -> list[list[int]]:
    return [encoded[index].tolist() for index in range(len(encoded))]


def test_tokens_are_those_of_the_tokenizers_own_call(backbone: Backbone) -> None:
    encoded = encode(backbone.tokenizer, TEXTS, max_length=backbone.longest)
    assert sequences(encoded) == backbone.tokenizer(list(TEXTS))["input_ids"]
    assert encoded.lengths.tolist() == [len(ids) for ids in backbone.tokenizer(list(TEXTS))["input_ids"]]
    assert encoded.truncated == 0
    assert (encoded.tokens.dtype, encoded.offsets.dtype) == (np.int32, np.int64)


def test_llamas_texts_and_pairs_begin_with_its_own_token(llama: Backbone) -> None:
    begin = llama.tokenizer.convert_tokens_to_ids(BEGIN)
    assert sequences(encode(llama.tokenizer, ["a"], max_length=8))[0][0] == begin
    assert sequences(encode(llama.tokenizer, ["a"], ["b"], max_length=8))[0].count(begin) == 2


@pytest.mark.parametrize("length", [3, 10, 40])
def test_pairs_are_joined_and_cut_as_the_tokenizer_does_it(backbone: Backbone, length: int) -> None:
    first, second = ["a", LONG, "a", "the novel was dull."], ["b", "a", LONG, LONG]
    encoded = encode(backbone.tokenizer, first, second, max_length=length)
    whole = backbone.tokenizer(first, second)["input_ids"]
    assert sequences(encoded) == backbone.tokenizer(first, second, truncation=True, max_length=length)["input_ids"]
    assert encoded.truncated == sum(len(ids) > length for ids in whole) >= 3
    assert encoded.lengths.max() == length


@pytest.mark.parametrize("length", [2, 5, 17])
def test_longer_texts_are_cut_and_counted(backbone: Backbone, length: int) -> None:
    encoded = encode(backbone.tokenizer, TEXTS, max_length=length)
    whole = backbone.tokenizer(list(TEXTS))["input_ids"]
    assert sequences(encoded) == [ids[:length] for ids in whole]
    assert encoded.truncated == sum(len(ids) > length for ids in whole) > 0


def test_the_tokenizers_own_truncation_side_is_kept(gpt2: Backbone) -> None:
    whole = gpt2.tokenizer(LONG)["input_ids"]
    gpt2.tokenizer.truncation_side = "left"
    try:
        assert sequences(encode(gpt2.tokenizer, [LONG], max_length=9)) == [whole[-9:]]
    finally:
        gpt2.tokenizer.truncation_side = "right"


def test_many_texts_are_encoded_in_pieces_without_a_change(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [text for text, _ in sentences(50)]
    whole = encode(backbone.tokenizer, texts, texts[::-1], max_length=20)
    monkeypatch.setattr("afina.data.tokenize._CHUNK", 7)
    parts = encode(backbone.tokenizer, texts, texts[::-1], max_length=20)
    assert sequences(parts) == sequences(whole)
    assert parts.truncated == whole.truncated > 0


def test_no_texts_give_no_sequences(backbone: Backbone) -> None:
    encoded = encode(backbone.tokenizer, [], max_length=8)
    assert len(encoded) == 0
    assert encoded.tokens.tolist() == []


@pytest.mark.parametrize("chunk", [4096, 2])
def test_a_text_without_tokens_is_an_error_that_says_which(
    gpt2: Backbone, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr("afina.data.tokenize._CHUNK", chunk)
    with raises(InvalidData, code="data.text-empty", row=4):
        encode(gpt2.tokenizer, ["a", "b", "c", "", "d", ""], max_length=8, where="training text")


def test_encoding_leaves_the_tokenizer_as_it_was(gpt2: Backbone) -> None:
    before = Backbone.load(gpt2.address).tokenizer_digest
    encode(gpt2.tokenizer, TEXTS, max_length=3)
    fresh = Backbone(gpt2.address, gpt2.path, gpt2.config, gpt2.tokenizer)
    assert fresh.tokenizer_digest == before
    assert len(gpt2.tokenizer(LONG)["input_ids"]) > 3
