"""Adapters that find entities: compared entity by entity, shown, checked, exported, and opened by other libraries."""

from __future__ import annotations

import contextlib
import io
import json
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import pytest
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForTokenClassification

from afina import Adapter, AdapterStore, Backbone, Predictor, Run
from afina.data.entities import Entity, as_entities, labels_of_tags, tag_names
from afina.data.evaluation_set import EvaluationSet
from afina.data.split import Split
from afina.data.words import words_of
from afina.errors import InvalidStudy
from afina.models import objectives
from afina.models.predictions import Predictions
from afina.stats.answered import Answered
from afina.stats.metrics import METRICS
from afina.store import recompute
from afina.store.card_kinds import CARD_KINDS
from afina.store.flips import FLIP_KINDS, compare_answers
from afina.studies.runs.spec import UNASKED
from afina.training.settings import Training
from fakes import Backbones
from raises import raises

# peft asks transformers for a property that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")

KIND = FLIP_KINDS["entities"]
TEXTS = ("Maria saw Rome", "Ana", "nothing here", "Oslo or Bern")
MARIA, ROME, ANA = Entity(0, 5, "PER"), Entity(10, 14, "LOC"), Entity(0, 3, "PER")
OSLO, BERN = Entity(0, 4, "LOC"), Entity(8, 12, "LOC")


def answered(*answers: tuple[Entity, ...]) -> Answered:
    return Answered(as_entities([(MARIA, ROME), (ANA,), (), (OSLO, BERN)]), as_entities(answers))


FIRST = answered((MARIA,), (ANA,), (), (OSLO, BERN._replace(label="PER")))
SECOND = answered((MARIA, ROME), (ANA._replace(label="LOC"),), (), (OSLO._replace(end=7), Entity(8, 12, "LOC")))


def test_texts_and_entities_that_change_are_counted() -> None:
    entities = {"added": 1, "removed": 0, "relabelled": 2, "moved": 1, "replaced": 0}
    flips = {"flipped": 3, "right_to_wrong": 1, "wrong_to_right": 1, "wrong_to_wrong": 1}
    assert KIND.counts(FIRST, SECOND, np.ones(4, bool)) == flips | {"entities": entities}
    turned = KIND.counts(SECOND, FIRST, np.ones(4, bool))
    assert turned["entities"] == entities | {"added": 0, "removed": 1}
    first = KIND.counts(FIRST, SECOND, np.array([True, False, False, False]))
    assert [first[name] for name in ("flipped", "right_to_wrong", "wrong_to_right")] == [1, 0, 1]
    assert KIND.right(SECOND).tolist() == [True, False, True, False]


def test_texts_that_were_right_come_first_and_then_those_with_most_changes() -> None:
    assert KIND.changed(FIRST, SECOND, np.ones(4, bool)) == [1, 3, 0]
    assert KIND.changed(FIRST, SECOND, np.array([True, True, True, False])) == [1, 0]
    assert KIND.changed(FIRST, FIRST, np.ones(4, bool)) == []


def test_entities_are_shown_with_their_part_of_the_text() -> None:
    value = KIND.json_value((MARIA, ROME), ("LOC", "PER"))
    assert value == [{"start": 0, "end": 5, "label": "PER"}, {"start": 10, "end": 14, "label": "LOC"}]
    assert KIND.in_words(value, TEXTS[0]) == "Maria (PER), Rome (LOC)"
    assert KIND.in_words([], TEXTS[2]) == "none"
    assert CARD_KINDS["entities"].rows(("LOC", "PER")) == ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")


class OneName:
    """A predictor that calls the first word of each text a PER."""

    def predict(
        self, texts: list[str], pairs: None, *, where: str, before: int = 0, spaced: bool = False
    ) -> tuple[Predictions, int]:
        words = [words_of(text, spaced) for text in texts]
        found = objectives.make(("LOC", "PER"), {"kind": "entities"})
        return found.of_answers([[(*each[0].tolist(), "PER")] for each in words]), 0


def test_two_adapters_are_compared_on_the_given_words_and_by_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Predictor, "of", lambda *_: OneName())
    texts, labels = ["U.S. won", "U.N. met"] * 2, as_entities([[(0, 4, "PER")]] * 4)
    given = Split(texts, labels, groups=["b", "b", "a", "a"], spaced=True)
    asked = EvaluationSet("t", "t", ("LOC", "PER"), given, "entities")
    objective = objectives.make(("LOC", "PER"), {"kind": "entities"})
    predictions = recompute._predictions(cast("Adapter", None), None, asked)
    made = objective.answered(predictions.against(labels), asked.label_names)
    assert [*made.answers] == [*labels], "the words that stand between spaces"
    assert made.groups is not None
    assert made.groups.tolist() == [0, 0, 1, 1]
    found = compare_answers(made, made, asked, "entities", METRICS["entity_f1"], ("one", "other"), 5)
    assert found.comparison is not None
    assert (found.comparison.unit, found.comparison.examples) == ("document", 2)


# In a store

ASKED = "Maria saw Oslo, didn't she?", "Ana", "In Rome, Otto."


class Kept(NamedTuple):
    """A store with two versions of a token classifier, the backbone, and the file of the training texts."""

    store: AdapterStore
    backbone: str
    task: str


def rows() -> list[dict[str, Any]]:
    made = []
    for name, place in product(("Maria", "Ana", "Otto"), ("Rome", "Oslo", "Bern")):
        for text in (f"{name} saw {place}!", f"In {place}, {name} was happy.", f"nothing near {len(made)}"):
            places = ((text.find(word), word, label) for word, label in ((name, "PER"), (place, "LOC")))
            found = [{"start": at, "end": at + len(word), "label": label} for at, word, label in places if at >= 0]
            made.append({"text": text, "entities": sorted(found, key=lambda one: one["start"])})
    return made


@pytest.fixture(scope="module", params=["bert/full", "gpt2/lora"])
def kept(request: pytest.FixtureRequest, backbones: Backbones, tmp_path_factory: pytest.TempPathFactory) -> Kept:
    (family, method), place = request.param.split("/"), tmp_path_factory.mktemp("entities")
    task, backbone = place / "task.jsonl", str(backbones.path(family))
    task.write_text("\n".join(map(json.dumps, rows())))
    store = AdapterStore(place / "store", who="ada")
    training = Training(max_steps=100, batch_size=8, dtype="float32", learning_rate=5e-3)
    for seed in (0, 1):
        run = Run(backbone=backbone, task=str(task), method=method, training=training, seed=seed, ask=UNASKED)
        store.publish(place / "out" / run.execute(place / "out").adapter, "acme/names", message="why")
    return Kept(store, backbone, str(task))


def entities_of(found: list[dict[str, Any]]) -> list[tuple[int, int, str]]:
    return [(one["start"], one["end"], one["label"]) for one in found]


@pytest.mark.slow  # models are trained
def test_a_version_passes_its_golden_test_of_words_and_comes_back_from_a_bundle(kept: Kept, tmp_path: Path) -> None:
    checked = kept.store.check("acme/names@1")
    assert checked.passed
    assert checked.difference == pytest.approx(0, abs=1e-5)
    kept.store.export("acme/names@1", str(tmp_path / "out.tar"))
    made = kept.store.import_from(str(tmp_path / "out.tar"), "acme/again", message="again")
    assert made.version.digest == kept.store.show("acme/names@1").digest
    flips = kept.store.diff("acme/names@1", "acme/names@2", task=kept.task, allow_leakage=True).flips
    assert flips is not None
    assert flips.as_json()["entities"].keys() == {"added", "removed", "relabelled", "moved", "replaced"}
    assert kept.store.verify() == []


@pytest.mark.slow  # models are trained
@pytest.mark.parametrize("merged", [False, True])
def test_the_code_of_the_model_card_finds_the_same_entities(kept: Kept, tmp_path: Path, *, merged: bool) -> None:
    out = str(tmp_path / "out")
    kept.store.export("acme/names@1", out, merged=merged)
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "pipeline_tag: token-classification" in card
    assert "divide a text of more than" in card
    code = card.split("```python\n")[1].split("```")[0]
    code = code.replace('"BACKBONE"', repr(kept.backbone)).replace('"DIRECTORY"', repr(out))
    predictor = Predictor.of(kept.store.adapter("acme/names@1"), Backbone.load(kept.backbone))
    for text in ASKED:
        with contextlib.redirect_stdout(io.StringIO()) as said:
            exec(code.replace('"a text"', repr(text)), {})
        found: Any = predictor([text])
        assert entities_of(eval(said.getvalue())) == entities_of(found[0]["entities"])
    assert entities_of(found[0]["entities"]), "nothing was found to compare"


@pytest.mark.slow  # models are trained
def test_a_saved_token_classifier_is_imported_whatever_the_order_of_its_tags(kept: Kept, tmp_path: Path) -> None:
    out = tmp_path / "out"
    kept.store.export("acme/names@1", str(out), merged=True)
    model = AutoModelForTokenClassification.from_pretrained(out)
    order = [3, 0, 4, 2, 1]
    names = [model.config.id2label[place] for place in order]
    model.config.id2label, model.config.label2id = dict(enumerate(names)), {n: i for i, n in enumerate(names)}
    head = model.score if hasattr(model, "score") else model.classifier
    for parameter in head.parameters():
        parameter.data = parameter.data[order]
    model.save_pretrained(out)
    kept.store.import_from(str(out), "acme/turned", message="why", backbone=kept.backbone)
    assert kept.store.check("acme/turned@1").passed
    adapters = map(kept.store.adapter, ("acme/names@1", "acme/turned@1"))
    first, turned = (Predictor.of(one, Backbone.load(kept.backbone)) for one in adapters)
    one, other = (json.loads(json.dumps(each(list(ASKED)))) for each in (first, turned))
    assert [entities_of(each["entities"]) for each in one] == [entities_of(each["entities"]) for each in other]


def test_labels_follow_from_bio_tags_in_any_order_and_from_no_other_names() -> None:
    assert labels_of_tags(("I-PER", "B-LOC", "O", "B-PER", "I-LOC")) == ("LOC", "PER")
    for names in (
        ("O",),
        ("O", "B-LOC"),
        ("O", "I-LOC"),
        ("B-LOC", "I-LOC"),
        (*tag_names(["LOC"]), "S-LOC"),
        ("a", "b"),
    ):
        assert not labels_of_tags(names)


def test_a_token_classifier_of_peft_is_refused_because_its_tags_are_unknown(
    backbones: Backbones, tmp_path: Path
) -> None:
    config = AutoConfig.from_pretrained(backbones.path("gpt2"), num_labels=5)
    settings = LoraConfig(task_type="TOKEN_CLS", r=2, target_modules=r".*\.c_attn", fan_in_fan_out=True)
    get_peft_model(AutoModelForTokenClassification.from_config(config), settings).save_pretrained(tmp_path / "theirs")
    store = AdapterStore(tmp_path / "store", who="ada")
    with raises(InvalidStudy, code="adapter.tags-unknown"):
        store.import_from(str(tmp_path / "theirs"), "acme/theirs", message="why")
    with raises(InvalidStudy, code="adapter.tags-unknown"):
        Predictor.load(tmp_path / "theirs")
