"""Penalties, biases and ends of an answer are the formulas of their sources. Beam search refuses what it lacks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from transformers import (
    LogitsProcessor,
    MinNewTokensLengthLogitsProcessor,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from afina import Backbone
from afina.errors import InvalidStudy
from afina.generating.answers import text_of
from afina.generating.generation import answers
from afina.generating.guides import Grammar, GuideMaker
from afina.generating.searches import Limits, SingleSearch
from afina.models.decoding import Decoding
from afina.models.language_model import open_model
from afina.models.objective import Opening
from fakes import VOCABULARY, tokenizer
from raises import raises

SIZE, END = 40, 7
PROMPT = np.array([3, 5, 5, 9], np.int32)


def rows(count: int = 24, seed: int = 0) -> torch.Tensor:
    """Logits of both signs; some tokens are much more probable than others, so that answers repeat them."""
    random = np.random.default_rng(seed)
    return torch.from_numpy((random.normal(size=(count, SIZE)) + 2 * random.normal(size=SIZE)).astype(np.float32))


def chosen(decoding: Decoding, guide: Any = None, ends: frozenset[int] = frozenset()) -> list[int]:
    """The tokens that a search takes, given `rows`."""
    search = SingleSearch(PROMPT, decoding, Limits(ends, 24), None, guide)
    for row in rows():
        if search.advance(row[None], int(row.argmax())) is None:
            break
    return list(search.tokens)


@pytest.mark.parametrize("temperature", [5e-324, 1e-308, 9e-5])
def test_a_temperature_near_0_is_greedy(temperature: float) -> None:
    decoding = Decoding(temperature=temperature, top_p=0.9, presence_penalty=0.1)
    assert chosen(decoding) == chosen(Decoding(presence_penalty=0.1))


def processed(*processors: LogitsProcessor) -> list[int]:
    """The tokens that transformers' processors and argmax take, given `rows`."""
    tokens = PROMPT.tolist()
    for row in rows():
        scores = row[None].clone()
        for each in processors:
            scores = each(torch.tensor([tokens]), scores)
        tokens.append(int(scores.argmax()))
    return tokens[len(PROMPT) :]


@pytest.mark.parametrize("penalty", [1.3, 3.0, 0.6])
def test_the_repetition_penalty_is_that_of_transformers(penalty: float) -> None:
    found = chosen(Decoding(repetition_penalty=penalty))
    assert found == processed(RepetitionPenaltyLogitsProcessor(penalty))
    assert found != chosen(Decoding())


def test_a_bias_is_added_to_the_logits_as_by_transformers_and_before_the_penalties() -> None:
    bias = {19: -100.0, 37: -3.0, 30: 1.5}
    added = SequenceBiasLogitsProcessor([[[token], value] for token, value in bias.items()])
    assert chosen(Decoding(logit_bias=bias)) == processed(added) != chosen(Decoding())
    both = Decoding(logit_bias=bias, repetition_penalty=1.5)
    assert chosen(both) == processed(added, RepetitionPenaltyLogitsProcessor(1.5))


@pytest.mark.parametrize(("presence", "frequency"), [(1.5, 0.0), (0.0, 0.7), (0.4, 0.9), (-2.0, -0.5)])
def test_presence_and_frequency_are_openais_formula_over_the_answer_alone(presence: float, frequency: float) -> None:
    """mu[j] - c[j] * alpha_frequency - float(c[j] > 0) * alpha_presence."""
    counts, expected = np.zeros(SIZE), list[int]()
    for row in rows().double().numpy():
        expected.append(int((row - counts * frequency - (counts > 0) * presence).argmax()))
        counts[expected[-1]] += 1
    found = chosen(Decoding(presence_penalty=presence, frequency_penalty=frequency))
    assert found == expected != chosen(Decoding())


def test_no_token_ends_an_answer_before_the_least_number_of_tokens() -> None:
    ends = frozenset({END, int(rows()[0].argmax())})
    assert len(chosen(Decoding(), ends=ends)) == 1
    found = chosen(Decoding(min_new_tokens=9), ends=ends)
    expected = processed(MinNewTokensLengthLogitsProcessor(len(PROMPT), 9, [*ends]))
    assert found == expected[: len(found)]
    assert len(found) >= 10
    assert not ends & {*found[:9]}


@pytest.mark.parametrize(
    ("decoding", "warpers"),
    [
        ({"min_p": 0.2}, [MinPLogitsWarper(0.2)]),
        ({"min_p": 1.0}, [MinPLogitsWarper(1.0)]),
        (
            {"min_p": 0.05, "top_k": 6, "top_p": 0.8},
            [MinPLogitsWarper(0.05), TopKLogitsWarper(6), TopPLogitsWarper(0.8)],
        ),
        ({"min_p": 0.3, "top_k": 30}, [MinPLogitsWarper(0.3), TopKLogitsWarper(30)]),
    ],
    ids=["min_p", "min_p 1", "all three", "min_p and top_k"],
)
def test_sampling_draws_from_the_tokens_that_min_p_then_top_k_then_top_p_leave(
    decoding: dict[str, Any], warpers: list[LogitsProcessor]
) -> None:
    row = rows()[0]
    scores = TemperatureLogitsWarper(0.8)(torch.tensor([[0]]), row[None].clone())
    for each in warpers:
        scores = each(torch.tensor([[0]]), scores)
    weights, counts, draws = scores.softmax(-1)[0].double().numpy(), np.zeros(SIZE), 2000
    for seed in range(draws):
        search = SingleSearch(PROMPT, Decoding(temperature=0.8, seed=seed, **decoding), Limits(frozenset(), 1))
        search.advance(row[None], None)
        counts[search.tokens[0]] += 1
    assert set(np.flatnonzero(counts)) <= set(np.flatnonzero(weights))
    error = np.sqrt(weights * (1 - weights) / draws)
    assert (abs(counts / draws - weights) < 5 * error + 1e-9).all()


def test_log_probabilities_stay_those_of_the_models_own_logits() -> None:
    decoding = Decoding(logit_bias={11: 50.0}, repetition_penalty=2.0, presence_penalty=1.0)
    search = SingleSearch(PROMPT, decoding, Limits(frozenset(), 3), 2)
    for row in rows(3):
        search.advance(row[None], None)
    assert search.logprobs is not None
    for row, token, found in zip(rows(3), search.tokens, search.logprobs, strict=True):
        assert found.chosen == pytest.approx(float(row.log_softmax(-1)[token]), abs=1e-5)


def test_a_grammar_is_followed_whatever_changes_the_logits_and_ends_the_answer_when_it_is_complete() -> None:
    words, choices = tokenizer(begin=False), ["yes", "no", "perhaps"]
    make, end = GuideMaker(words).prepare("acme", Grammar.of_choices(choices)), frozenset({words.eos_token_id})
    bias = dict.fromkeys(words("Zebra")["input_ids"], 100.0)
    for seed in range(5):
        decoding = Decoding(
            **{
                "temperature": 1.0,
                "seed": seed,
                "min_new_tokens": 20,
                "ignore_eos": bool(seed % 2),
                "logit_bias": bias,
            },
            **{"repetition_penalty": 5.0, "presence_penalty": 2.0, "frequency_penalty": 2.0, "min_p": 0.5},
        )
        search = SingleSearch(PROMPT, decoding, Limits(frozenset() if seed % 2 else end, 24), None, make())
        random = np.random.default_rng(seed)
        while search.advance(torch.from_numpy(random.normal(size=(1, len(words))).astype(np.float32)), None):
            pass
        assert search.answer is not None
        assert search.answer.ended
        assert text_of(words, search.answer.tokens) in choices


@pytest.fixture(scope="module")
def model(gpt2: Backbone) -> Any:
    return open_model(gpt2, ("text",), 0, Opening("", "language_model")).eval()


def test_a_stop_token_ends_an_answer_before_it_and_the_end_token_may_not(model: Any) -> None:
    asked, words = [PROMPT], tokenizer(begin=False)
    (free,) = answers(model, asked, Decoding(max_new_tokens=12), ())
    whole = free.tokens.tolist()
    end = whole[5]
    first = whole.index(end)
    (ended,) = answers(model, asked, Decoding(max_new_tokens=12), [end])
    (ignored,) = answers(model, asked, Decoding(max_new_tokens=12, ignore_eos=True), [end])
    stopping = Decoding(max_new_tokens=12, stop_token_ids=(end,))
    (stopped,) = answers(model, asked, stopping, ())
    assert ended.tokens.tolist() == stopped.tokens.tolist() == whole[: first + 1]
    assert ended.ended
    assert stopped.ended
    assert ignored.tokens.tolist() == whole
    assert not ignored.ended
    assert text_of(words, stopped.tokens, stopping) == text_of(words, stopped.tokens[:-1])


@pytest.mark.parametrize("option", ["logit_bias", "stop_token_ids"])
def test_a_token_id_outside_the_vocabulary_is_refused(model: Any, option: str) -> None:
    largest = {"logit_bias": {VOCABULARY - 1: 1.0}, "stop_token_ids": (VOCABULARY - 1,)}
    unknown = {"logit_bias": {VOCABULARY: 1.0}, "stop_token_ids": (VOCABULARY,)}
    assert list(answers(model, [PROMPT], Decoding(max_new_tokens=1, **{option: largest[option]}), ()))
    with raises(InvalidStudy, code="option.invalid", option=option, found=[VOCABULARY]):
        list(answers(model, [PROMPT], Decoding(max_new_tokens=1, **{option: unknown[option]}), ()))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("min_new_tokens", 2),
        ("presence_penalty", 0.1),
        ("frequency_penalty", -0.1),
        ("repetition_penalty", 1.1),
        ("logit_bias", {1: 1.0}),
    ],
)
def test_beam_search_refuses_what_it_does_not_have(option: str, value: Any) -> None:
    with raises(InvalidStudy, code="option.invalid", option=option):
        Decoding(beams=2).changed(**{option: value})


@pytest.mark.parametrize(
    ("given", "option"),
    [
        ({"presence_penalty": 2.1}, "presence_penalty"),
        ({"frequency_penalty": float("nan")}, "frequency_penalty"),
        ({"repetition_penalty": 0.0}, "repetition_penalty"),
        ({"repetition_penalty": float("inf")}, "repetition_penalty"),
        ({"repetition_penalty": 1e-308}, "repetition_penalty"),
        ({"min_p": 0.1}, "min_p"),
        ({"temperature": 1.0, "min_p": 1.1}, "min_p"),
        ({"logit_bias": {1: 100.5}}, "logit_bias"),
        ({"logit_bias": {-1: 1.0}}, "logit_bias"),
        ({"min_new_tokens": 6, "max_new_tokens": 5}, "min_new_tokens"),
        ({"min_new_tokens": 1, "stop": ("\n",)}, "min_new_tokens"),
        ({"stop_token_ids": (-1,)}, "stop_token_ids"),
    ],
    ids=str,
)
def test_values_without_a_meaning_are_refused(given: dict[str, Any], option: str) -> None:
    with raises(InvalidStudy, code="option.invalid", option=option):
        Decoding().changed(**given)
    with pytest.raises(ValidationError):
        Decoding(**given)


def test_settings_are_read_as_they_were_written() -> None:
    changed = Decoding(repetition_penalty=1.2, logit_bias={3: 1.0})
    assert Decoding.model_validate_json(changed.model_dump_json()) == changed


def test_the_settings_are_named_in_the_sentence_and_given_to_transformers() -> None:
    decoding = Decoding(temperature=1.0, min_p=0.1, repetition_penalty=1.2, min_new_tokens=3, stop_token_ids=(5,))
    assert "min-p 0.1" in decoding.in_words
    assert "repetition_penalty 1.2" in decoding.in_words
    assert "token 5" in decoding.in_words
    assert decoding.for_transformers().items() >= {("min_p", 0.1), ("repetition_penalty", 1.2), ("min_new_tokens", 3)}
