"""A text is encoded by the engine, on any thread, as `Reading.encode` encodes it."""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from afina import Adapter, Backbone
from afina.data import concurrent_tokenizer
from afina.data.concurrent_tokenizer import ConcurrentTokenizer
from afina.data.template import Template
from afina.data.tokenize import encode
from afina.engine.engine import Engine
from afina.errors import AfinaError, InvalidData
from crowd import adapter
from fakes import TEXTS, sentences

WORDS = ["soup", "a", "it's", " ", "\n", "  \n ", "é", "漢字", "12", "...", "I", "\u0301", "🙂", "don't", "<|end|>"]


def _text(seed: int, size: int, times: int) -> str:
    """Words of `WORDS` and of sentences, and single characters of any script, with any whitespace between them."""
    draw = random.Random(seed)
    usual = " ".join(text for text, _ in sentences(3)).split()
    some = [
        draw.choice(draw.choice([WORDS, usual, usual, [chr(draw.randrange(1, 0xD000))]]))
        + draw.choice([" ", " ", " ", "", "\n", "  "])
        for _ in range(size)
    ]
    return "x" + "".join(some) * times


LONG = st.builds(_text, st.integers(0, 2**32), st.integers(1, 40), st.integers(1, 6))
TEMPLATES = [None, "{text}", "Review: {text}\nSentiment:", "say{text}so", "{text}"]
PAIRED = [None, "{text}\n{text_pair}", "Q{text_pair} and {text}:", "{text} {text_pair}"]


def _byte_level(**changes: Any) -> PreTrainedTokenizerFast:
    return _trained(pre_tokenizers.ByteLevel(add_prefix_space=False), **changes)


def _trained(pre_tokenizer: Any, *, normalizer: Any = None, begin: bool = False, side: str = "right") -> Any:
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        inner.normalizer = normalizer
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=["<|end|>", "<s>"], initial_alphabet=alphabet, show_progress=False
    )
    inner.train_from_iterator([*(text for text, _ in sentences(100)), *TEXTS], trainer)
    if begin:
        inner.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", inner.token_to_id("<s>"))]
        )
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|end|>", truncation_side=side)


def _llama3(pattern: int) -> Any:
    split = pre_tokenizers.Split(Regex(concurrent_tokenizer._PATTERNS[pattern]), "isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


MADE: dict[str, Callable[[], Any]] = {
    "gpt2": _byte_level,
    "begins": lambda: _byte_level(begin=True),
    "left": lambda: _byte_level(side="left"),
    "begins, left": lambda: _byte_level(begin=True, side="left"),
    "qwen": lambda: _trained(_llama3(0), normalizer=normalizers.NFC()),
    "llama3": lambda: _trained(_llama3(1), begin=True),
    "digits": lambda: _trained(
        pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel()])
    ),
    "metaspace": lambda: _trained(pre_tokenizers.Metaspace(), begin=True),
}


@pytest.fixture(scope="module", params=MADE)
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return MADE[request.param]()


def same(tokenizer: Any, texts: list[str], pairs: list[str] | None, most: int, template: Template | None) -> None:
    """Compare one after the other, with the middle left out where that is allowed."""
    made = ConcurrentTokenizer(tokenizer)

    def read(by: Any, *given: list[str] | None) -> Any:
        try:
            found = encode(by, *given, max_length=most, template=template)  # type: ignore[arg-type]
        except AfinaError as error:
            return type(error), error.code
        return found.tokens.tolist(), found.offsets.tolist(), found.truncated

    short = [made.shortened(text, most) for text in texts]
    others = None if pairs is None else [made.shortened(text, most) for text in pairs]
    expected = read(tokenizer, texts, pairs)
    assert read(made, texts, pairs) == expected
    if pairs is None or template is not None:
        assert read(made, short, others) == expected


@settings(max_examples=6, deadline=None)
@given(text=LONG, template=st.sampled_from(TEMPLATES), most=st.integers(2, 40))
def test_single_texts(tokenizer: Any, text: str, template: str | None, most: int) -> None:
    same(tokenizer, [text], None, most, None if template is None else Template(template))


@settings(max_examples=6, deadline=None)
@given(text=LONG, pair=LONG, template=st.sampled_from(PAIRED), most=st.integers(3, 40))
def test_pairs(tokenizer: Any, text: str, pair: str, template: str | None, most: int) -> None:
    same(tokenizer, [text], [pair], most, None if template is None else Template(template))


@settings(max_examples=5, deadline=None)
@given(texts=st.lists(LONG, min_size=1, max_size=4), most=st.integers(2, 40))
def test_several_texts_at_once(tokenizer: Any, texts: list[str], most: int) -> None:
    same(tokenizer, texts, None, most, Template("Review: {text}\nSentiment:"))
    same(tokenizer, texts, None, most, Template("{text}\nAnswer:", special_tokens=False))


@pytest.mark.slow
def test_a_huge_text_costs_no_more_than_its_limit(tokenizer: Any) -> None:
    made = ConcurrentTokenizer(tokenizer)
    text = " ".join(text for text, _ in sentences(400)) * 4
    short = made.shortened(text, 32)
    if "Metaspace" in made._inner.to_str():
        assert short == text  # its words are not independent
    else:
        assert len(short) < 2000 < 60_000 < len(text)
    same(tokenizer, [text], None, 32, None)
    same(tokenizer, [text], None, 32, Template("Review: {text}\nSentiment:"))


def test_a_text_without_words_is_read_whole(tokenizer: Any) -> None:
    made = ConcurrentTokenizer(tokenizer)
    for text in ("漢字" * 3000, "a" * 6000, " " * 6000, "12 " * 2000):
        assert made.shortened(text, 16) == text


def test_tokens_with_spaces_are_read_whole() -> None:
    made = _byte_level()
    made.add_tokens(["soup was"])
    text = "the soup was hot " * 2000
    assert ConcurrentTokenizer(made).shortened(text, 16) == text
    same(made, [text], None, 16, None)


def told(gpt2: Backbone, **changes: Any) -> Adapter:
    facts = {"labels": ("told",), "objective": {"kind": "text", "answer_tokens": 8}, "template": "{text}\nTold:"}
    return adapter(gpt2, "lora", **(facts | changes))


def test_an_error_is_the_outcome_of_its_own_text(gpt2: Backbone) -> None:
    with Engine(gpt2) as engine:
        (resident,) = engine.load(adapter(gpt2, "lora", max_length=12))
        texts = ["warm soup", "", "late " * 40, "warm soup"]
        found = engine.encode(resident, texts)
        assert isinstance(found[1], InvalidData)
        assert resident.reading is not None
        for text, one in zip(texts, found, strict=True):
            if not isinstance(one, AfinaError):
                expected = resident.reading.encode([text])
                assert (one.tokens.tolist(), one.truncated) == (expected.tokens.tolist(), expected.truncated == 1)
                assert one.text == text
        (pair,) = engine.encode(resident, ["a"], ["b"])
        assert not isinstance(pair, AfinaError)
        assert pair.tokens.tolist() == resident.reading.encode(["a"], ["b"]).tokens.tolist()


def test_threads_encode_at_once_for_adapters_of_other_lengths(gpt2: Backbone) -> None:
    with Engine(gpt2) as engine:
        residents = engine.load(*(adapter(gpt2, "lora", seed=seed, max_length=4 + seed) for seed in range(8)))
        texts = [text for text, _ in sentences(20)]
        alone = [[one.reading.encode([text]).tokens.tolist() for text in texts] for one in residents if one.reading]

        def read(which: int) -> list[list[int]]:
            found = engine.encode(residents[which % 8], texts)
            return [one.tokens.tolist() for one in found if not isinstance(one, AfinaError)]

        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(read, range(64))) == [alone[which % 8] for which in range(64)]


def test_other_templates_replace_the_adapters_own(gpt2: Backbone) -> None:
    with Engine(gpt2) as engine:
        (resident,) = engine.load(adapter(gpt2, "lora", template="Review: {text}\nSentiment:"))
        (found,) = engine.encode(resident, ["warm soup"], template=Template("{text}"))
        assert not isinstance(found, AfinaError)
        assert found.tokens.tolist() == gpt2.tokenizer("warm soup")["input_ids"]
        (own,) = engine.encode(resident, ["warm soup"])
        assert not isinstance(own, AfinaError)
        assert own.tokens.tolist() == gpt2.tokenizer("Review: warm soup\nSentiment:")["input_ids"]
        assert own.tokens.dtype == np.int32
