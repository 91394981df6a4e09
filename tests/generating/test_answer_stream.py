"""The pieces of a streamed answer are the answer, however its tokens come."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from afina.errors import InvalidData
from afina.generating.answer_stream import AnswerStream, TokenTexts
from afina.generating.answers import text_of
from afina.models.decoding import Decoding
from fakes import END, tokenizer
from raises import raises


@cache
def byte_level() -> PreTrainedTokenizerFast:
    """As GPT-2's: a token may be a part of a character."""
    return tokenizer(begin=False)


@cache
def byte_fallback() -> PreTrainedTokenizerFast:
    """As LLaMA-2's: words with a mark for the space, and a token for each byte, of which runs are decoded together."""
    single = ["▁", "▁soup", "so", "up", "é", "▁é", "."]
    words = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *single]
    inner = Tokenizer(
        models.BPE({word: place for place, word in enumerate(words)}, [], byte_fallback=True, unk_token="<unk>")
    )
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    inner.decoder = decoders.Sequence(steps)
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@cache
def cleaning() -> PreTrainedTokenizerFast:
    """As BERT's: spaces before punctuation are removed afterwards."""
    words = ["[UNK]", END, "soup", "##s", ".", "'", "n", "##'t", "do", "?"]
    inner = Tokenizer(models.WordPiece({word: place for place, word in enumerate(words)}, unk_token="[UNK]"))
    inner.decoder = decoders.WordPiece()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token=END, unk_token="[UNK]", clean_up_tokenization_spaces=True
    )


TOKENIZERS = (byte_level, byte_fallback, cleaning)


def streamed(words: Any, tokens: Sequence[int], stop: Sequence[str], cuts: Sequence[int]) -> tuple[list[str], str]:
    """The pieces, and the whole answer."""
    stream, pieces, start = AnswerStream(TokenTexts(words), Decoding(stop=stop)), [], 0
    for end in [*sorted(cuts), len(tokens)]:
        pieces.append(stream.add(tokens[start:end]))
        start = max(start, end)
    text = text_of(words, np.array(tokens, np.int64), Decoding(stop=stop))
    return [*pieces, stream.end(text)], text


CASES = st.sampled_from(TOKENIZERS).flatmap(
    lambda made: st.tuples(
        st.just(made),
        st.lists(st.integers(0, len(made()) + 3), max_size=30),
        st.lists(st.sampled_from(["\n", "soup", "ou", "é", " ", ". ", "so", "�", "upso"]), max_size=3),
        st.lists(st.integers(0, 30), max_size=8),
    )
)


@settings(max_examples=150, deadline=None)
@given(CASES)
@example((byte_fallback, [3, 266, 131], [], [2]))  # a token beyond the vocabulary does not end a run of bytes
@example((cleaning, [8, 6, 7], [], [1, 2]))  # do, n, 't: "do n" becomes "don't"
def test_the_pieces_are_the_answer(case: Any) -> None:
    made, tokens, stop, cuts = case
    pieces, text = streamed(made(), tokens, stop, [min(cut, len(tokens)) for cut in cuts])
    assert "".join(pieces) == text


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=20), st.lists(st.sampled_from(["a", "ab", "bc", "é", " b"]), max_size=2))
def test_pieces_of_valid_text_have_no_broken_character(said: str, stop: list[str]) -> None:
    words = byte_level()
    tokens = words(said)["input_ids"]
    pieces, text = streamed(words, tokens, stop, range(len(tokens)))
    assert "".join(pieces) == text
    if "�" not in said:
        assert not any("�" in piece for piece in pieces)


def test_text_arrives_with_its_tokens() -> None:
    words = byte_level()
    stream, pieces = AnswerStream(TokenTexts(words), Decoding(stop=("STOP",))), []
    for token in words(" the soup é was")["input_ids"]:
        pieces.append(stream.add([token]))
    assert "".join(pieces) == "the soup é was"
    assert len([piece for piece in pieces if piece]) > 4


def test_what_could_become_a_stop_string_is_held_back() -> None:
    words = byte_level()
    stream = AnswerStream(TokenTexts(words), Decoding(stop=("soup?!",)))
    assert stream.add(words("a sou")["input_ids"]) == "a"
    assert stream.add(words("per sou")["input_ids"]) == " souper"
    assert stream.add(words("p?! and more")["input_ids"]) == ""
    assert stream.add(words("more")["input_ids"]) == ""
    assert stream.end("a souper") == ""


def test_an_answer_that_does_not_begin_with_its_pieces_is_an_error() -> None:
    words = byte_level()
    stream = AnswerStream(TokenTexts(words))
    stream.add(words("soup")["input_ids"])
    with raises(InvalidData, code="request.stream-differs"):
        stream.end("sour")


@pytest.mark.parametrize("made", [byte_level, byte_fallback])
def test_the_bytes_of_tokens_are_those_of_the_text(made: Any) -> None:
    words = made()
    texts = TokenTexts(words)
    tokens = [token for token in words("soup é日 so.")["input_ids"] if token not in texts.special]
    joined = b"".join(map(texts.bytes_of, tokens)).decode()
    assert joined.strip() == words.decode(tokens).strip()
    assert texts.bytes_of(len(words) + 10) == b""
    assert "".join(map(texts.shown, words("up")["input_ids"])).strip() == "up"
    halves = [texts.shown(token) for token in words("日")["input_ids"]]
    assert any(half.startswith("bytes:\\x") for half in halves)


def test_stop_tokens_are_left_out() -> None:
    words = tokenizer(begin=False)
    tokens = words("the soup")["input_ids"]
    decoding = Decoding(stop_token_ids=(tokens[-1],))
    text = text_of(words, np.array(tokens, np.int64), decoding)
    stream = AnswerStream(TokenTexts(words), decoding)
    assert stream.add(tokens) + stream.end(text) == text == text_of(words, np.array(tokens[:-1], np.int64))
