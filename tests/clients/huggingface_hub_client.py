"""InferenceClient of huggingface_hub."""
# /// script
# dependencies = ["huggingface_hub"]
# ///

import json

from checks import ANSWERS, KEY, REVIEW, URL, check, main, review, same
from huggingface_hub import InferenceClient

PROMPT = ANSWERS["prompt"]
USER = [{"role": "user", "content": PROMPT}]
client = InferenceClient(base_url=URL, api_key=KEY)


@check
def chat():
    """chat_completion"""
    found = client.chat_completion(USER, model="acme/talk", max_tokens=60)
    same(found.choices[0].message.content, ANSWERS["talk"])


@check
def stream():
    """chat_completion, streamed"""
    found = client.chat_completion(USER, model="acme/talk", max_tokens=60, stream=True)
    same("".join(one.choices[0].delta.content or "" for one in found), ANSWERS["talk"])


@check
def schema():
    """response_format of chat_completion"""
    asked = {"type": "json_schema", "json_schema": {"name": "review", "schema": REVIEW, "strict": True}}
    found = client.chat_completion(USER, model="acme/talk", max_tokens=400, response_format=asked)
    review(json.loads(found.choices[0].message.content))


@check
def classification():
    """text_classification"""
    found = InferenceClient(api_key=KEY).text_classification(PROMPT, model=f"{URL}/models/acme/reviews")
    same({one.label: round(one.score, 5) for one in found}, ANSWERS["reviews"])


@check
def unanswered():
    """text_classification of a text that the adapter does not answer"""
    first, *others = InferenceClient(api_key=KEY).text_classification(PROMPT, model=f"{URL}/models/acme/careful")
    same((first.label, first.score), ("(not answered)", 1.0))
    same({one.label: round(one.score, 5) for one in others}, ANSWERS["reviews"])
    (top,) = InferenceClient(api_key=KEY).text_classification(PROMPT, model=f"{URL}/models/acme/careful", top_k=1)
    same(top.label, "(not answered)")


@check
def entities():
    """token_classification"""
    model = f"{URL}/models/acme/places"
    found = InferenceClient(api_key=KEY).token_classification(PROMPT, model=model, aggregation_strategy="first")
    same([[one.start, one.end, one.entity_group, one.word, round(one.score, 5)] for one in found], ANSWERS["places"])
    tagged = InferenceClient(api_key=KEY).token_classification(PROMPT, model=model, aggregation_strategy="none")
    assert all(one.entity[:2] in ("B-", "I-") for one in tagged), tagged


@check
def generation():
    """text_generation"""
    asked = InferenceClient(api_key=KEY, model=f"{URL}/models/acme/told")
    same(asked.text_generation(PROMPT, max_new_tokens=60), ANSWERS["told"])
    found = asked.text_generation(PROMPT, max_new_tokens=60, details=True, return_full_text=True)
    same(found.details.generated_tokens, len(found.details.tokens))
    assert found.generated_text.startswith(PROMPT), found


@check
def generation_stream():
    """text_generation, streamed"""
    asked = InferenceClient(api_key=KEY, model=f"{URL}/models/acme/told")
    same("".join(asked.text_generation(PROMPT, max_new_tokens=60, stream=True)), ANSWERS["told"])
    *_, last = asked.text_generation(PROMPT, max_new_tokens=60, stream=True, details=True)
    same(last.generated_text, ANSWERS["told"])


@check
def features():
    """feature_extraction is refused"""
    for more in ({}, {"normalize": True}):
        try:
            InferenceClient(api_key=KEY).feature_extraction(PROMPT, model=f"{URL}/models/acme/reviews", **more)
        except OSError as error:  # of an HTTP status
            assert "feature-extraction" in str(error), error
        else:
            raise AssertionError("labels as features")


@check
def other_question():
    """zero_shot_classification is refused"""
    try:
        InferenceClient(api_key=KEY).zero_shot_classification(PROMPT, ["a", "b"], model=f"{URL}/models/acme/reviews")
    except OSError as error:  # of an HTTP status
        assert "candidate_labels" in str(error) or "400" in str(error) or "422" in str(error), error
    else:
        raise AssertionError("an answer to another question")


main()
