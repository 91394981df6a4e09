"""Receipts of generated texts: what they hold, what is refused, and that the answer is computed again from them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from afina import Adapter, Backbone, Predictor
from afina.errors import AfinaError, InvalidData, InvalidName, Refused
from afina.models.decoding import Decoding
from afina.server.receipts import GenerationFacts, Receipt, choice_seed
from afina.server.replay import grammar_of, replayed
from crowd import adapter
from fakes import VOCABULARY
from raises import raises
from servers import TOLD, Served, probed, serving

TEXT = "the soup was bright."
PLAIN = {"version": "acme/told@1", "adapter": "sha256:a", "base": "sha256:b", "dtype": "float32"}
SAMPLED = Decoding(max_new_tokens=6, temperature=1.5, top_p=0.9, top_k=40, seed=7, stop=("Zebra!", "\n\n\n"))


def test_a_receipt_holds_the_settings_of_generation_and_no_text() -> None:
    facts = GenerationFacts.of(SAMPLED, 2, "sha256:g", "raw")
    receipt = Receipt(**PLAIN, generation=facts)
    said = json.loads(str(receipt))
    assert {key: value for key, value in said.items() if key != "generation"} == PLAIN
    stop = said["generation"].pop("stop")
    assert said["generation"] == {
        **{"max_new_tokens": 6, "temperature": 1.5, "top_p": 0.9, "top_k": 40, "seed": 7},
        **{"n": 2, "guide": "sha256:g", "prompt": "raw"},
    }
    assert stop.startswith("sha256:")
    assert "Zebra" not in str(receipt)
    assert Receipt.parse(str(receipt)) == receipt
    assert str(receipt).isascii(), "it is the value of a header"


def test_what_has_its_default_is_not_written() -> None:
    receipt = Receipt(**PLAIN, generation=GenerationFacts.of(Decoding(max_new_tokens=3)))
    assert receipt.as_json() == PLAIN | {"generation": {"max_new_tokens": 3}}
    assert Receipt(**PLAIN).as_json() == PLAIN


@pytest.mark.parametrize(
    "generation",
    [3, [], {}, {"max_new_tokens": 0}, {"max_new_tokens": "3"}, {"max_new_tokens": 3, "n": 0}, {"other": 1}],
    ids=str,
)
def test_what_is_no_generation_is_refused(generation: Any) -> None:
    with raises(InvalidName, code="receipt.malformed"):
        Receipt.parse(json.dumps(PLAIN | {"generation": generation}))


def test_settings_of_a_choice_come_back_with_the_stop_strings_alone() -> None:
    facts = GenerationFacts.of(SAMPLED, 3)
    assert facts.decoding(SAMPLED.stop) == SAMPLED
    third = facts.decoding(SAMPLED.stop, 2)
    assert third.changed(seed=7) == SAMPLED
    assert len({choice_seed(7, choice) for choice in range(3)}) == 3
    for stop, choice in (((), 0), (SAMPLED.stop[::-1], 0), (SAMPLED.stop, 3)):
        with raises(Refused, code="receipt.mismatch"):
            facts.decoding(stop, choice)


def test_settings_that_no_server_writes_are_refused() -> None:
    facts = GenerationFacts(max_new_tokens=3, temperature=1.0, beams=2)
    with raises(Refused, code="receipt.mismatch", what="generation"):
        facts.decoding(())


@pytest.fixture(scope="module")
def told(gpt2: Backbone) -> Adapter:
    return adapter(gpt2, "lora", {"r": 2}, seed=6, **TOLD)


@pytest.mark.parametrize(("decoding", "choice"), [(SAMPLED, 1), (Decoding(max_new_tokens=5, beams=2), 0)], ids=str)
def test_an_answer_is_computed_again(gpt2: Backbone, told: Adapter, decoding: Decoding, choice: int) -> None:
    predictor, facts = Predictor.of(told, gpt2), GenerationFacts.of(decoding, 2)
    settings = decoding.model_dump() | {"seed": choice_seed(decoding.seed, choice)}
    (alone,) = predictor.generating(**settings)([TEXT])
    assert replayed(predictor, facts, TEXT, None, decoding.stop, choice) == alone


def test_a_prompt_of_token_ids_is_given_as_an_array(gpt2: Backbone, told: Adapter) -> None:
    predictor, facts = Predictor.of(told, gpt2), GenerationFacts.of(Decoding(max_new_tokens=6), prompt="tokens")
    ids = gpt2.tokenizer(f"{TEXT}\nTold:")["input_ids"]
    inside = replayed(predictor, GenerationFacts.of(Decoding(max_new_tokens=6)), TEXT)
    assert replayed(predictor, facts, json.dumps(ids)) == inside
    for text in (TEXT, "[]", "{}", "5", "[-1]", '["a"]', "[true]", f"[{VOCABULARY}]"):
        with raises(InvalidData, code="receipt.tokens-malformed"):
            replayed(predictor, facts, text)


CHAT = "{% for one in messages %}{{ one.content }}{% endfor %}{{ '\\nTold:' if add_generation_prompt }}"


def test_a_chat_is_rendered_again(gpt2: Backbone, told: Adapter, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor, decoding = Predictor.of(told, gpt2), Decoding(max_new_tokens=6)
    monkeypatch.setattr(gpt2.tokenizer, "chat_template", CHAT)
    chat = GenerationFacts.of(decoding, prompt="chat")
    messages = json.dumps([{"role": "user", "content": TEXT}])
    assert replayed(predictor, chat, messages) == replayed(predictor, GenerationFacts.of(decoding), TEXT)
    assert replayed(predictor, chat, json.dumps({"input": TEXT})) == replayed(predictor, chat, messages)
    items = [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": TEXT}]}]
    assert replayed(predictor, chat, json.dumps({"input": items})) == replayed(predictor, chat, messages)
    rendered_with = GenerationFacts.of(decoding, prompt="chat", chat_template=CHAT)
    assert replayed(predictor, rendered_with, messages) == replayed(predictor, chat, messages)
    with raises(Refused, code="receipt.mismatch", what="chat_template"):
        replayed(predictor, GenerationFacts.of(decoding, prompt="chat", chat_template=f"{CHAT}!"), messages)
    for text in (
        TEXT,
        "[]",
        "{}",
        "[1]",
        '{"input": 1}',
        '{"messages": []}',
        '{"instructions": "a"}',
        '[{"role": "user", "content": 1}]',
    ):
        with raises(InvalidData, code="receipt.chat-malformed"):
            replayed(predictor, chat, text)


def test_stop_strings_of_the_adapter_need_not_be_given(gpt2: Backbone) -> None:
    stopped = {**TOLD, "objective": {**TOLD["objective"], "decoding": {"stop": ["e"]}}}  # type: ignore[dict-item]
    predictor = Predictor.of(adapter(gpt2, "lora", {"r": 2}, seed=6, **stopped), gpt2)
    facts = GenerationFacts.of(Decoding(max_new_tokens=6, stop=("e",)))
    assert replayed(predictor, facts, TEXT) == predictor.generating(max_new_tokens=6)([TEXT])[0]


CHOICES = {"structured_outputs": {"choice": ["calm", "angry"]}}


def test_a_guided_answer_is_computed_again_with_its_grammar_alone(gpt2: Backbone, told: Adapter) -> None:
    predictor, grammar, decoding = Predictor.of(told, gpt2), grammar_of(CHOICES), Decoding(max_new_tokens=9)
    facts = GenerationFacts.of(decoding, guide=grammar.digest)
    assert replayed(predictor, facts, TEXT, grammar=grammar)["answer"] in ("calm", "angry")
    other = grammar_of({"response_format": {"type": "json_object"}})
    for given, found in ((None, facts), (other, facts), (grammar, GenerationFacts.of(decoding))):
        with raises(Refused, code="receipt.mismatch", what="guide"):
            replayed(predictor, found, TEXT, grammar=given)


def test_the_grammar_of_a_function_and_of_a_response() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "boolean"}}}
    function = {"name": "f", "parameters": schema}
    chat = grammar_of({"tools": [{"type": "function", "function": function}], "tool_choice": "required"})
    assert grammar_of({"tools": [{"type": "function", **function}], "tool_choice": "required"}) == chat
    assert grammar_of({"text": {"format": {"type": "json_schema", "name": "f", "schema": schema}}}) == chat


@pytest.mark.parametrize("given", [{}, {"choice": ["a"]}, {"structured_outputs": {}}, {"response_format": 3}], ids=str)
def test_what_is_no_grammar_is_refused(given: Any) -> None:
    with raises(InvalidData, code="request.grammar-invalid"):
        grammar_of(given)


def test_what_a_replay_cannot_compute_is_refused(gpt2: Backbone, told: Adapter) -> None:
    classes = Predictor.of(adapter(gpt2, "lora", {"r": 2}), gpt2)
    for stop, choice in ((["e"], 0), (None, 1)):
        with raises(Refused, code="receipt.mismatch", what="generation"):
            replayed(classes, None, TEXT, None, stop, choice)
    refusals: tuple[type[AfinaError], ...] = (InvalidData, AfinaError)
    with pytest.raises(refusals):
        replayed(classes, GenerationFacts.of(Decoding(max_new_tokens=6)), TEXT)


SAMPLING = {"temperature": 1.5, "top_k": 40, "top_p": 0.9, "seed": 11}


@pytest.mark.slow
@pytest.mark.parametrize(
    "asked",
    [
        {},
        {**SAMPLING, "stop": ["e", "zebra"], "stream": True},
        {"template": False, "max_tokens": 4},
        {**SAMPLING, **CHOICES, "n": 2},
        {"presence_penalty": 1, "repetition_penalty": 1.5, "logit_bias": {"7": 4}, "min_tokens": 3, "ignore_eos": True},
        {**SAMPLING, "min_p": 0.1, "frequency_penalty": 1.5, "stop_token_ids": [90, 100], "stream": True},
    ],
    ids=str,
)
def test_what_a_server_wrote_is_computed_again_from_its_receipt(
    gpt2: Backbone, told: Adapter, writer: Served, asked: dict[str, Any]
) -> None:
    answer = writer.post("/v1/completions", {"model": "acme/told", "prompt": TEXT, **asked})
    assert answer.status_code == 200, answer.text
    receipt = Receipt.parse(answer.headers["afina-receipt"])
    receipt.check(told.digest, told.manifest)
    if asked.get("stream"):
        events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
        written = ["".join(one["text"] for event in events for one in event["choices"])]
    else:
        written = [one["text"] for one in answer.json()["choices"]]
    assert len(written) == asked.get("n", 1)
    grammar = grammar_of(CHOICES) if "structured_outputs" in asked else None
    predictor, stop = Predictor.of(told, gpt2), asked.get("stop")
    for choice, text in enumerate(written):
        again = replayed(predictor, receipt.generation, TEXT, None, stop, choice, grammar)
        assert again["answer"] == text


@pytest.fixture(scope="module")
def writer(gpt2: Backbone, told: Adapter, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server of an adapter that writes."""
    reviews = probed(adapter(gpt2, "lora", {"r": 2}, seed=1), gpt2)
    with serving(gpt2, {"acme/reviews@1": reviews, "acme/told@1": told}, tmp_path_factory.mktemp("writer")) as made:
        yield made
