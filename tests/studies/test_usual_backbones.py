"""The packaged backbones that are used if the user names none."""

from __future__ import annotations

from pathlib import Path

import pytest

from afina import assets
from afina.data.kinds import Kind
from afina.models.backbone_spec import BGE, EMBEDDED, MINILM, PACKAGED
from afina.studies import backbones
from afina.studies.backbones import usual_backbone, usual_backbones
from afina.studies.runs.spec import RunSpec

ALL = (BGE, EMBEDDED, MINILM)
TEXTS = ("a fine film", "a dull film")


@pytest.fixture
def at_hand(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The backbones that can be fetched; those that are in the cache. Empty: no network and an empty cache."""
    there: set[str] = set()
    monkeypatch.setattr(
        assets, "fetch_if_possible", lambda name: Path(name) if name in {PACKAGED[one] for one in there} else None
    )
    monkeypatch.setattr(assets, "is_cached", lambda name: name in {PACKAGED[one] for one in there})
    monkeypatch.setattr(backbones, "_within_words", lambda backbone, texts: 0.05)
    return there


@pytest.mark.parametrize(
    ("kind", "there", "expected", "told"),
    [
        ("classes", ALL, (BGE, EMBEDDED), ""),
        ("number", (BGE, EMBEDDED), (BGE, EMBEDDED), ""),
        ("entities", (BGE, EMBEDDED), (BGE, EMBEDDED), ""),
        ("text", ALL, (EMBEDDED,), ""),
        ("classes", (BGE,), (BGE,), "embedded cannot be downloaded: bge is the only backbone"),
        ("classes", (MINILM, EMBEDDED), (MINILM, EMBEDDED), "bge cannot be downloaded: minilm takes its place"),
        ("classes", (EMBEDDED,), (EMBEDDED,), "bge cannot be downloaded: embedded takes its place"),
        ("classes", (), (BGE,), ""),
    ],
)
def test_choose_compares_the_encoder_and_the_language_model_that_can_be_had(
    at_hand: set[str], kind: Kind, there: tuple[str, ...], expected: tuple[str, ...], told: str
) -> None:
    at_hand.update(there)
    said: list[str] = []
    assert usual_backbones(kind, said.append, TEXTS) == expected
    assert said == ([told] if told else [])


@pytest.mark.parametrize(
    ("kind", "method", "ask", "expected"),
    [
        ("classes", "lora", {}, BGE),
        ("classes", "lora", {"head": "words"}, EMBEDDED),
        ("classes", "zero-shot", {}, EMBEDDED),
        ("classes", "prelayer", {}, BGE),
        ("text", "lora", {}, EMBEDDED),
    ],
)
def test_train_uses_the_encoder_unless_a_language_model_is_needed(
    at_hand: set[str], kind: Kind, method: str, ask: dict[str, str], expected: str
) -> None:
    at_hand.update(ALL)
    run = RunSpec.model_validate({"backbone": "embedded", "task": "sst2", "method": method, "ask": ask})
    assert usual_backbone(kind, str, TEXTS, run) == expected


@pytest.mark.parametrize(
    ("texts", "looks_english"),
    [
        (("The parcel came late and the box was open.", "Great service, I will order here again."), True),
        (("@anna so tired right now lol", "BBQ at Joe's tonight?? #yum"), True),
        (("Das Paket kam verspätet an und der Karton war offen.", "Toller Service, gerne wieder."), False),
        (("Le colis est arrivé en retard et le carton était ouvert.", "Service impeccable, je recommande."), False),
        (("包裹晚到了,盒子也被打开了。", "服务很好,我会再来。"), False),
        (("Посылка пришла поздно, коробка была открыта.", "Отличный сервис, закажу ещё."), False),
    ],
)
def test_texts_that_do_not_look_like_english_are_noticed(texts: tuple[str, ...], looks_english: bool) -> None:
    said: list[str] = []
    assert usual_backbone("classes", said.append, texts) == BGE
    assert [("do not look like English" in one) for one in said] == ([] if looks_english else [True])
