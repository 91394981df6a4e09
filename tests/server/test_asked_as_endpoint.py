"""afina's own server, asked as any model behind an API is: `endpoints` on one side, `serve` on the other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from afina import Adapter, Backbone
from afina.data.split import Split, as_references
from afina.endpoints.asking import ask
from afina.endpoints.endpoint import Endpoint
from afina.endpoints.questions import EndpointQuestion
from afina.errors import Refused
from afina.models.objectives import Classes, Texts
from crowd import adapter
from raises import raises
from servers import TOLD, listening, predictor, talk

pytestmark = pytest.mark.slow

TEXTS = ["the soup was bright.", "warm soup", "bright bright soup.", "the soup"]


def test_a_served_adapter_answers_as_it_does_alone_and_follows_a_schema(
    chatting: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crowd: dict[str, Adapter] = {
        "acme/reviews@1": adapter(chatting, "lora", {"r": 2}, seed=1),
        "acme/told@1": adapter(chatting, "lora", {"r": 2}, seed=2, **TOLD),
        "acme/talk@1": adapter(chatting, "lora", {"r": 2}, seed=4, **talk(chatting)),
    }
    references = Split(TEXTS, as_references([(text,) for text in TEXTS]))
    with listening(chatting, crowd, tmp_path) as server:
        monkeypatch.setenv("A_KEY", server.secrets["acme"])

        def endpoint(model: str, protocol: str, key: str = "A_KEY") -> Endpoint:
            return Endpoint(f"http://127.0.0.1:{server.port}/v1", model, protocol, key=key, max_tokens=64)  # type: ignore[arg-type]

        kept, texts = tmp_path / "kept", Texts(("told",))
        plain = EndpointQuestion.of("text", ("told",), pairs=False, template="{text}")  # the server adds its template
        for model, protocol in (("acme/told", "completions"), ("acme/talk", "chat")):
            found = ask(endpoint(f"{model}@1", protocol), plain, references, texts, kept)
            alone = [
                one["answer"] for one in predictor(crowd[f"{model}@1"], chatting).generating(max_new_tokens=64)(TEXTS)
            ]
            assert found.predictions.outputs.tolist() == [answer.strip() for answer in alone], protocol
            assert (found.facts.tokens_in or 0) > 0
        classes = EndpointQuestion.of("classes", ("bad", "good", "fair"), pairs=False)
        labelled = Split(TEXTS, np.array([0, 1, 2, 0]))
        found = ask(endpoint("acme/talk@1", "chat"), classes, labelled, Classes(("bad", "good", "fair")), kept)
        assert (found.facts.missing, found.facts.structure) == ({}, "used")
        monkeypatch.setenv("OTHER_KEY", "afina_wrong")
        with raises(Refused, code="endpoint.refused", status=401):
            ask(
                endpoint("acme/talk@1", "chat", "OTHER_KEY"),
                classes,
                labelled,
                Classes(("a", "b", "c")),
                tmp_path / "o",
            )
        with raises(Refused, code="endpoint.refused", status=404):
            ask(endpoint("acme/nobody", "chat"), classes, labelled, Classes(("a", "b", "c")), tmp_path / "o")
