"""Words of texts: how they are found, which token tells a word's tag, and that windows read each word once."""

from __future__ import annotations

import logging
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from afina.data.batch import IGNORED, by_length
from afina.data.concurrent_tokenizer import ConcurrentTokenizer
from afina.data.entities import Entity, as_entities, entities_of, numbered, tags_of
from afina.data.word_tokens import WordTokens, _cut, encode_words, first_tokens
from afina.data.words import words_of
from afina.errors import InvalidData, InvalidStudy
from fakes import tokenizer
from raises import raises

FAKE, LABELS = tokenizer(begin=True), ("LOC", "PER")


def parts(text: str, *, spaced: bool = False) -> list[str]:
    return [text[start:end] for start, end in words_of(text, spaced).tolist()]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Zürich's café (U.S.)", ["Zürich", "'", "s", "café", "(", "U", ".", "S", ".", ")"]),
        ("e\u0301te\u0301\u00a0\u200b x", ["e\u0301te\u0301", "x"]),
        ("👩‍👩‍👧🇩🇪!", ["👩‍👩‍👧", "🇩🇪", "!"]),
        ("東京 abc", ["東", "京", "abc"]),
        ("a\r\n b_1\t", ["a", "b_1"]),
        ("  ", []),
    ],
)
def test_words_are_runs_of_letters_and_digits_and_other_characters_alone(text: str, expected: list[str]) -> None:
    assert parts(text) == expected


def test_given_words_are_what_stands_between_spaces() -> None:
    assert parts("@paul 's U.S. :)", spaced=True) == ["@paul", "'s", "U.S.", ":)"]


@given(st.text(max_size=30))
def test_words_have_no_blanks_and_do_not_overlap(text: str) -> None:
    words = words_of(text).ravel().tolist()
    assert words == sorted(words)
    assert not any(part.isspace() or not part for part in parts(text))


def test_a_token_belongs_to_its_first_word_and_blanks_at_its_start_do_not_count() -> None:
    text = "it 's  ok"
    words = words_of(text, spaced=True)
    assert first_tokens(text, words, np.array([[0, 2], [2, 5], [5, 7], [7, 9]])).tolist() == [0, 1, 3]
    assert first_tokens(text, words, np.array([[0, 5], [5, 9]])).tolist() == [0, -1, 1]


@pytest.mark.parametrize("max_length", [6, 7, 100])
@pytest.mark.parametrize("concurrent", [False, True])
def test_windows_read_each_word_once_and_outputs_come_back_in_the_order_of_words(
    max_length: int, concurrent: bool
) -> None:
    texts = ["the film was good and the cast was bad", "good", "a b c d e f g h i j k l m n o p q r s t"]
    made = encode_words(ConcurrentTokenizer(FAKE) if concurrent else FAKE, texts, max_length=max_length)
    assert made.lengths.max() <= max_length
    for text in range(made.texts):
        read = [word for window in made.windows_of(text) for word in made.read_in(window).tolist()]
        assert sorted(read) == [*range(len(made.words[text]))]
    outputs = [np.repeat(made.read_in(window)[:, None], 3, 1).astype(np.float32) for window in range(len(made))]
    for found, words in zip(made.joined_outputs(outputs, 3), made.words, strict=True):
        assert found[:, 0].tolist() == [*range(len(words))]
    alone = encode_words(FAKE, texts[2:], max_length=max_length)
    assert np.array_equal(made.part(2, 3).tokens, alone.tokens)
    assert np.array_equal(made.part(2, 3).reads, alone.reads)


def test_each_word_is_read_in_the_window_where_it_is_farthest_from_a_border() -> None:
    """Each token of the text is compared in each window, by the definition."""
    draw = np.random.default_rng(0)
    for _ in range(60):
        room = int(draw.integers(4, 20))
        tokens = int(draw.integers(1, 60))
        firsts = np.where(draw.random(tokens) < 0.8, np.arange(tokens), -1)
        cut = [*_cut(firsts, tokens, room)]
        distances = [
            [
                min(at - start if start else tokens, end - 1 - at if end < tokens else tokens)
                if start <= at < end
                else -1
                for start, end, _ in cut
            ]
            for at in range(tokens)
        ]
        expected = [[word for word in range(tokens) if firsts[word] >= 0] for _ in cut]
        for window, words in enumerate(expected):
            expected[window] = [word for word in words if np.argmax(distances[firsts[word]]) == window]
        assert [read.tolist() for *_, read in cut] == expected


def test_a_long_text_is_cut_in_memory_that_grows_as_the_text() -> None:
    firsts = np.arange(20_000)
    tracemalloc.start()
    assert sum(len(read) for *_, read in _cut(firsts, len(firsts), 126)) == len(firsts)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40 * firsts.nbytes


def test_a_packed_batch_has_targets_where_words_are_read() -> None:
    made = encode_words(FAKE, ["the film was good", "bad"], max_length=50)
    seen = 0
    for indices, packed in by_length(made):
        assert packed.per_token
        seen += packed.learnt
        assert packed.learnt == sum(len(made.read_in(index)) for index in indices.tolist())
        assert set(packed.targets.tolist()) <= {0, IGNORED}
    assert seen == sum(map(len, made.words))


def test_tags_are_those_of_the_words_and_mean_the_same_entities() -> None:
    text = "Ann Lee saw Rome"
    given = as_entities([[(0, 7, "PER"), (12, 16, "LOC")]])
    made = encode_words(FAKE, [text], max_length=50)
    tags = made.tagged(numbered(given, LABELS)).tokens
    assert [tag for tag in tags.tolist() if tag != IGNORED] == [3, 4, 0, 1]
    assert entities_of(made.words[0], tags_of(made.words[0], numbered(given, LABELS)[0]), LABELS) == given[0]


def test_an_inside_tag_without_its_beginning_begins_an_entity() -> None:
    words = words_of("a b c d", spaced=True)
    assert entities_of(words, [2, 4, 4, 3], LABELS) == (Entity(0, 1, "LOC"), Entity(2, 5, "PER"), Entity(6, 7, "PER"))


def test_a_word_without_a_token_continues_the_word_before_it() -> None:
    made = WordTokens(
        np.zeros(2, np.int32),
        np.array([0, 2]),
        0,
        reads=np.array([0, 2], np.int32),
        owners=np.zeros(1, np.int64),
        words=np.fromiter([words_of("( a ) b", spaced=True)], dtype=object),
    )
    sure = np.array([[0, 9, 0], [9, 0, 0]], np.float32)
    (found,) = made.joined_outputs([sure], 3)
    assert entities_of(made.words[0], found.argmax(axis=1), ("X",)) == (Entity(0, 3, "X"),)


def test_a_text_of_many_windows_is_not_announced_as_too_long(caplog: pytest.LogCaptureFixture) -> None:
    short = tokenizer(begin=True)
    short.model_max_length = 8
    said = logging.getLogger("transformers")
    said.addHandler(caplog.handler)
    try:
        assert len(encode_words(short, ["good " * 30], max_length=8).owners) > 1
    finally:
        said.removeHandler(caplog.handler)
    assert not caplog.records


def test_texts_without_tokens_and_lengths_without_room_are_refused() -> None:
    with raises(InvalidData, code="data.text-empty"):
        encode_words(FAKE, ["good", ""], max_length=50)
    with raises(InvalidStudy, code="data.no-room-for-words", max_length=2):
        encode_words(FAKE, ["good"], max_length=2)
