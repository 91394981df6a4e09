"""The page at `/` as HTML: what is asked and shown, who may see it, and that no label becomes markup."""

from __future__ import annotations

import json
import logging
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from afina.pages.marked_text import MarkedText
from afina.server.protocols.page import TERMS, Card, render_answers
from crowd import adapter
from servers import logged, probed

TEXT = {"text": "the soup was bright."}
HOSTILE = '<script>document.title = "taken"</script>'
QUOTED = '"><img src=x onerror=alert(1)> {{ 7 * 7 }} </article>'


class Cards(HTMLParser):
    """Texts by card, and all elements and attributes that there are."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.cards, self.elements, self.attributes = list[list[str]](), set[str](), set[str]()
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.elements.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag == "article":
            self.cards.append([])

    def handle_data(self, data: str) -> None:
        if self.cards and data.strip():
            self.cards[-1].append(data.strip())


def asked(served: Any, who: str = "acme", **body: Any) -> Cards:
    response = served.post("/page/answers", TEXT | body, who)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/html")
    return Cards(response.text)


def test_every_task_of_the_client_answers_as_by_itself_under_its_version_and_aliases(served: Any) -> None:
    cards = asked(served).cards
    assert [card[0] for card in cards] == ["acme/price", "acme/reviews", "acme/tags"]
    price, reviews, tags = cards
    # production is version 1, though 2 is newer; the others have no alias, and one version
    assert reviews[1:3] == ["version 1", "production"]
    assert price[1] == "version 1"
    (alone,) = served.alone("acme/reviews@1", TEXT["text"])
    assert reviews[3] == alone["label"]
    ranked = sorted(alone["probabilities"].items(), key=lambda one: -one[1])
    assert reviews[4:] == [word for label, chance in ranked for word in (label, f"{100 * chance:.1f} %")]
    (value,) = served.alone("acme/price@1", TEXT["text"])
    assert price[2:] == [f"{value['value']:.4g}"]
    (several,) = served.alone("acme/tags@1", TEXT["text"])
    assert tags[2 : 2 + max(1, len(several["labels"]))] == (several["labels"] or ["none of its labels"])


def test_without_the_alias_the_newest_version_answers(serve: Any, gpt2: Any) -> None:
    served = serve()
    made = probed(adapter(gpt2, "lora", {"r": 2}, seed=31, labels=("no", "yes")), gpt2)
    served.publish(made, "acme/tags")
    served.store.alias("acme/tags@2", "staging")
    (tags,) = [card for card in asked(served).cards if card[0] == "acme/tags"]
    assert tags[1:3] == ["version 2", "staging"]
    assert {"yes", "no"} <= {*tags}


def test_nothing_of_another_client_is_shown(served: Any) -> None:
    response = served.post("/page/answers", TEXT, "bolt")
    assert [card[0] for card in Cards(response.text).cards] == ["bolt/mail"]
    assert "acme" not in response.text


def test_a_client_without_adapters_is_told_so(served: Any) -> None:
    made = served.store.create_key("dune", ["predict"])
    served.core.tenants.refresh()
    headers = {"Authorization": f"Bearer {made.secret}"}
    response = served.web.post("/page/answers", json=TEXT, headers=headers)
    assert (response.status_code, Cards(response.text).cards) == (200, [])
    assert "has no <a" in response.text
    assert linked(response.text) == {"client", "adapter"}


def test_hostile_labels_are_text(serve: Any, gpt2: Any) -> None:
    served = serve()
    plain = asked(served)
    labels = (HOSTILE, QUOTED, *(f"label {number}" for number in range(12)))
    made = probed(adapter(gpt2, "lora", {"r": 2}, seed=32, labels=labels), gpt2)
    served.publish(made, "acme/hostile")
    found = asked(served)
    (card,) = [card for card in found.cards if card[0] == "acme/hostile"]
    assert {HOSTILE, QUOTED} <= {*card}
    assert found.elements - plain.elements == {"details", "summary"}, "those of the labels that are folded away"
    assert found.attributes == plain.attributes
    assert {*labels} <= {*card}


def test_one_task_that_does_not_answer_keeps_no_other_from_it(serve: Any, gpt2: Any) -> None:
    served = serve()
    served.publish(probed(adapter(gpt2, "lora", {"r": 3}, seed=33), gpt2, off=0.5), "acme/bad")
    cards = {card[0]: card for card in asked(served).cards}
    assert cards["acme/bad"][1:] == [
        "version 1",
        "this model is damaged, or its golden test fails. See the server's log.",
    ]
    assert len(cards["acme/reviews"]) > 4
    assert served.core.batching.waiting == (0, 0)
    assert served.leases == 0


@pytest.mark.parametrize(
    ("body", "status"),
    [({}, 422), ({"text": " "}, 422), ({"text": 7}, 422), ({"text": "a" * 100_001}, 422)],
    ids=["none", "blank", "a number", "long"],
)
def test_a_text_that_is_none_is_refused_whole(served: Any, body: Any, status: int) -> None:
    response = served.post("/page/answers", body)
    assert (response.status_code, response.json()["kind"]) == (status, "invalid")


def test_a_key_that_has_spent_its_tokens_is_told_when_to_come_again(serve: Any) -> None:
    served = serve(tokens_per_minute=1000)
    served.core.tenants.reserve(served.key(), 1000)
    response = served.post("/page/answers", TEXT)
    assert (response.status_code, response.json()["kind"]) == (429, "overloaded")
    assert int(response.headers["retry-after"]) >= 1


def test_the_page_says_nothing_of_anyone_and_forbids_what_it_does_not_need(served: Any) -> None:
    for path in ("/", "/page/script.js", "/page/style.css"):
        response = served.web.get(path)
        assert response.status_code == 200
        policy = dict(part.strip().split(" ", 1) for part in response.headers["content-security-policy"].split(";"))
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert "unsafe" not in response.headers["content-security-policy"]
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["referrer-policy"] == "no-referrer"
        assert "set-cookie" not in response.headers
        for word in ("acme", "bolt", "reviews"):
            assert word not in response.text
    found = Cards(served.web.get("/").text)
    assert not {name for name in found.attributes if name.startswith("on") or name == "style"}
    assert "style" not in found.elements


def test_what_is_asked_by_the_page_is_in_no_log(serve: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    served = serve()
    asked(served, text="windmills are giants")
    said = json.dumps(logged(caplog))
    assert "windmills" not in said
    assert served.secrets["acme"] not in said


def test_figures_are_of_the_callers_client_alone_and_looking_at_them_counts_as_nothing(serve: Any) -> None:
    served = serve()
    now = [100.0]
    served.core.metrics.throughput._clock = lambda: now[0]
    asked(served)
    for _ in range(20):
        assert served.get("/page/figures").status_code == 200
    served.web.get("/")
    now[0] = 101.0
    text = served.get("/page/figures").text
    assert '">Requests/s</a></dt><dd>0.2</dd>' in text
    assert '">Texts/s</a></dt><dd>0.6</dd>' in text
    assert "acme" not in text
    other = served.get("/page/figures", "bolt").text
    for name in ("Requests/s", "Texts/s", "Tokens/s", "Waiting texts"):
        assert re.search(rf">{name}</a></dt><dd>0(\.0)?</dd>", other), (name, other)


def linked(html: str) -> set[str]:
    """The anchors, without their prefix, to which the terms of a page link."""
    return set(re.findall(r'<a class="term" href="#term-([\w-]+)">', html))


def test_terms_link_to_their_definitions_on_the_page(served: Any) -> None:
    page = served.web.get("/").text
    defined = re.findall(r'<dt id="term-([\w-]+)">([^<]+)</dt><dd>.', page)
    assert [term for _, term in defined] == [*TERMS]
    anchors = {anchor for anchor, _ in defined}
    assert linked(page) == {"adapter", "client", "key"}
    answers = served.post("/page/answers", TEXT | {"text": "soup " * 500}, "acme").text
    assert linked(answers) == {"version", "alias", "cut"}
    written = linked(render_answers([Card("acme/told", 1, [], model="acme/told@1")], 0))
    assert written == {"version", "receipt"}
    unsure = linked(render_answers([Card("acme/careful", 1, [], ["good"], answered=False)], 0))
    assert unsure == {"version", "not-answered"}
    entities = linked(render_answers([Card("acme/places", 1, [], marked=MarkedText.of("Ana", [(0, 3, "PER")]))], 0))
    assert entities == {"version", "entity"}
    figures = linked(served.get("/page/figures").text)
    assert len(figures) == 4
    assert linked(page) | linked(answers) | written | unsure | entities | figures == anchors, (
        "every term is used, and every used term is defined"
    )
