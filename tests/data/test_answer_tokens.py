"""Prompts and targets as tokens: the target's span is told by comparing tokens, and its end is learnt."""

from __future__ import annotations

import numpy as np
import pytest

from afina.data.answer_tokens import encode_references
from afina.data.batch import IGNORED
from afina.data.prompts import chat_template, prompt_of
from afina.data.template import Template
from afina.data.tokenize import encode
from afina.errors import InvalidData, InvalidStudy
from fakes import Backbones
from raises import raises

TEXTS = ["the soup", "a garden at noon"]
TARGETS = [("warm",), ("clever play", "a lovely {text} ferry")]
CHAT = (
    "{% for message in messages %}{{ '<' + message['role'] + '>' + message['content'] + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_sequence_is_prompt_and_target_and_each_target_ends(family: str, backbones: Backbones) -> None:
    tokenizer, template = backbones.tokenizer(family), Template("Asked: {text}\nAnswer:")
    prompts = encode(tokenizer, TEXTS, max_length=80, template=template)
    references = encode_references(tokenizer, TEXTS, None, TARGETS, template)
    assert references.owners.tolist() == [0, 1, 1]
    inputs, targets = references.sequences(prompts)
    for number, (owner, text) in enumerate([(0, "warm"), (1, "clever play"), (1, "a lovely {text} ferry")]):
        whole = tokenizer(f"Asked: {TEXTS[owner]}\nAnswer: {text}")["input_ids"] + [tokenizer.eos_token_id]
        prompt = prompts[owner]
        assert inputs[number].tolist() == whole[:-1]
        assert targets[number].tolist() == [IGNORED] * (len(prompt) - 1) + whole[len(prompt) :]
        assert references.tokens[number][-1] == tokenizer.eos_token_id
    assert references.longest == max(len(references.tokens[number]) for number in range(3))


def test_a_target_whose_tokens_join_the_prompts_is_refused(backbones: Backbones) -> None:
    without_space = Template("{text}", special_tokens=False)
    with raises(InvalidData, code="template.span-unknown", row=2):
        texts, targets = ["soup", "a ga"], [("warm",), ("rden",)]
        encode_references(backbones.tokenizer("gpt2"), texts, None, targets, without_space)


def test_a_tokenizer_without_an_end_is_refused(backbones: Backbones) -> None:
    tokenizer = backbones.tokenizer("gpt2")
    end, tokenizer.eos_token = tokenizer.eos_token, None
    try:
        with raises(InvalidStudy, code="tokenizer.end-missing"):
            encode_references(tokenizer, TEXTS, None, TARGETS, Template("{text}"))
    finally:
        tokenizer.eos_token = end


def test_columns_stand_for_the_text_and_its_pair(backbones: Backbones) -> None:
    tokenizer, columns = backbones.tokenizer("gpt2"), {"text": "context", "text_pair": "question"}
    given = prompt_of("{question}\n{context}", columns, pairs=True, tokenizer=tokenizer)
    assert given.render("{question}", "{text}") == "{text}\n{question}"  # literally, whatever the texts hold
    for names in (columns, {"text": "Context", "text_pair": "QUESTION"}):  # columns are recognised without case
        assert "Question: why" in prompt_of(None, names, pairs=True, tokenizer=tokenizer).render("because", "why")
    swapped = {"text": "context", "text_pair": "text"}
    named = prompt_of("{context}: {text}", swapped, pairs=True, tokenizer=tokenizer)
    assert named.render("here", "why") == "here: why"
    with raises(InvalidStudy, code="template.invalid"):
        prompt_of("{question}", {"text": "context"}, pairs=False, tokenizer=tokenizer)


def test_a_chat_is_rendered_by_the_tokenizer_with_its_special_tokens_once(backbones: Backbones) -> None:
    tokenizer = backbones.tokenizer("llama")
    with raises(InvalidStudy, code="template.chat-missing"):
        chat_template(tokenizer, pairs=False)
    tokenizer.chat_template = CHAT
    try:
        template = chat_template(tokenizer, pairs=False)
        prompts = encode(tokenizer, TEXTS, max_length=80, template=template)
        references = encode_references(tokenizer, TEXTS, None, TARGETS, template)
        for number, (owner, target) in enumerate([(0, "warm"), (1, "clever play")]):
            said = [{"role": "user", "content": TEXTS[owner]}, {"role": "assistant", "content": target}]
            whole = tokenizer.apply_chat_template(said, tokenize=True, return_dict=False)
            made = np.concatenate([prompts[owner], references.tokens[number]])
            assert made.tolist() == whole
        tokenizer.chat_template = CHAT.replace("+ eos_token", "+ '|'")
        with raises(InvalidStudy, code="template.chat-unusable"):
            chat_template(tokenizer, pairs=False)
    finally:
        tokenizer.chat_template = None
