"""With other words in every message, OpenAI's errors have the same `param`, `type` and `code`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from afina import Backbone
from crowd import adapter
from rewording import in_both_words
from servers import TOLD, Served, serving, talk


@pytest.fixture(scope="module")
def served(chatting: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    adapters = {
        "acme/reviews@1": adapter(chatting, "lora", {"r": 2}, seed=1),
        "acme/told@1": adapter(chatting, "lora", {"r": 2}, seed=2, **TOLD),
        "acme/talk@1": adapter(chatting, "lora", {"r": 2}, seed=4, **talk(chatting)),
    }
    with serving(chatting, adapters, tmp_path_factory.mktemp("reworded")) as made:
        yield made


ASKED = {
    "/v1/completions": (
        {"model": "acme/none"},
        {"prompt": 3},
        {"max_tokens": 0},
        {"max_tokens": 10**6},
        {"suffix": "x"},
        {"colour": "red"},
        {"logit_bias": {"x": 1}},
        {"temperature": -1},
        {"stop": [""]},
        {"n": 1000},
        {"best_of": 3},
        {"prompt": "word " * 400},
        {"structured_outputs": {"regex": "("}},
    ),
    "/v1/chat/completions": (
        {"messages": []},
        {"messages": [{"role": "robot", "content": "x"}]},
        {"model": "acme/told"},
        {"max_completion_tokens": 10**6},
        {"max_tokens": 0},
        {"top_logprobs": 3},
        {"tools": [{"type": "function", "function": {"name": "a b"}}], "tool_choice": "required"},
    ),
    "/v1/responses": ({"input": []}, {"previous_response_id": "r"}, {"background": True}, {"max_output_tokens": 0}),
}
"""Fields of requests that are wrong, by path."""


@pytest.mark.parametrize("path", ASKED)
def test_openais_errors_have_their_param_and_code_in_other_words(served: Served, path: str) -> None:
    usual = {
        "/v1/completions": {"model": "acme/told", "prompt": "the soup"},
        "/v1/chat/completions": {"model": "acme/talk", "messages": [{"role": "user", "content": "the soup"}]},
        "/v1/responses": {"model": "acme/talk", "input": "the soup"},
    }[path]
    params = set()
    for wrong in ASKED[path]:
        plain, other = in_both_words(lambda wrong=wrong: served.post(path, usual | wrong))
        assert plain.status_code == other.status_code >= 400, wrong
        first, second = plain.json()["error"], other.json()["error"]
        assert [second[name] for name in ("type", "param", "code")] == [
            first[name] for name in ("type", "param", "code")
        ]
        params.add(first["param"])
    assert len(params) >= len(ASKED[path]) / 2
