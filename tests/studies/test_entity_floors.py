"""The baselines of entities: by hand, in a study's `baselines.json`, and the CRF against CRFsuite itself."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from afina.data.entities import Entity, as_entities, entities_of
from afina.data.reading_options import ReadingOptions
from afina.data.split import Split
from afina.data.task import Task
from afina.errors import InvalidStudy, NotFound
from afina.models import objectives
from afina.models.objective import Objective
from afina.studies import baselines
from afina.studies.choosing import floors, taggers
from afina.studies.choosing.floors import CRF, GAZETTEER, WORD_TAGS
from afina.studies.results import Results

OBJECTIVE = objectives.make(("LOC", "PER"), {"kind": "entities"})


def split(rows: list[tuple[str, list[Entity]]], groups: list[str] | None = None) -> Split:
    return Split([text for text, _ in rows], as_entities(entities for _, entities in rows), groups=groups)


def marked(text: str) -> tuple[str, list[Entity]]:
    """A text in which an entity is written as [label words]; brackets and label are removed."""
    plain, entities = "", []
    for part in text.split("["):
        inside, bracket, rest = part.partition("]")
        if bracket:
            label, _, words = inside.partition(" ")
            entities.append(Entity(len(plain), len(plain) + len(words), label))
            plain += words + rest
        else:
            plain += part
    return plain, entities


TRAIN = split(
    [
        marked("I met [PER Ann Lee] in [LOC New York]."),
        marked("[PER Ann] likes [LOC York], New or not."),
        marked("New things in [LOC York]."),
        marked("[LOC Ann] is a lake; Lee is not."),
        marked("No Lee here."),
    ]
)
ASKED = split([marked("[PER Ann Lee] saw New York."), marked("ann, York and Bob"), ("", [])], ["d", "d", "e"])


def found(name: str, objective: Objective = OBJECTIVE) -> list[list[tuple[str, str]]]:
    """What a baseline finds in the texts of ASKED, as words and label."""
    (made,) = (one for one in floors.fit(TRAIN, objective) if one.name == name)
    pairs = zip(ASKED.texts, made.predict(ASKED), strict=True)
    return [[(text[one.start : one.end], one.label) for one in each] for text, each in pairs]


def test_the_tagger_knows_the_most_frequent_tag_of_each_word_and_no_other_words() -> None:
    """`Ann` is B-PER twice and B-LOC once; `Lee` is O twice, and `York` is B-LOC twice; case counts."""
    assert found(WORD_TAGS) == [[("Ann", "PER"), ("York", "LOC")], [("York", "LOC")], []]


def test_the_gazetteer_takes_the_longest_entity_and_its_most_frequent_label() -> None:
    """Of one text, `Ann` is a person, of another a place: the first label counts."""
    assert found(GAZETTEER) == [[("Ann Lee", "PER"), ("New York", "LOC")], [("York", "LOC")], []]
    only = split([marked("[PER Bo] [LOC Bo]")])
    made = floors.fit(only, OBJECTIVE)[1]
    assert made.predict(only)[0] == (Entity(0, 2, "LOC"), Entity(3, 5, "LOC"))


def test_predictions_have_words_and_documents_as_those_of_models_have() -> None:
    for floor in floors.fit(TRAIN, OBJECTIVE):
        made = floor.predictions(ASKED)
        assert OBJECTIVE.fits(made)
        assert [len(each) for each in made.extras["words"]] == [6, 5, 0]
        assert made.extras["document"].tolist() == [0, 0, 1]
        assert [each.dtype for each in made.outputs] == [np.float32] * 3
        assert "document" not in floor.predictions(TRAIN).extras
        assert floor.model is None
        assert floors.FLOORS["entities"].unsaved(floor.name)


def test_texts_without_entities_have_baselines_that_find_none() -> None:
    nothing = split([("no names", []), ("none here", [])])
    for floor in floors.fit(nothing, OBJECTIVE):
        assert floor.predict(TRAIN).tolist() == [()] * 5


def test_a_crf_finds_entities_that_are_not_in_the_training_texts_and_is_what_crfsuite_predicts() -> None:
    pycrfsuite = pytest.importorskip("pycrfsuite")
    rows = [f"{verb} [PER {name}] today" for verb in ("Saw", "Met") for name in ("Ann", "Bob", "Cy")]
    train = split([marked(row) for row in [*rows, "today is a day", "a day without names"]])
    asked = split([marked("Met [PER Dora] today"), marked("a day without names")])
    made = floors.fit_slow("crf", train, OBJECTIVE)
    assert (made.name, made.setting) == (CRF, f"c1 {taggers.L1:g}, c2 {taggers.L2:g}")
    assert made.predict(asked).tolist() == asked.labels.tolist()
    given = floors._tagged(train, OBJECTIVE)
    fitted = taggers.Crf.fit(*given)
    assert fitted == taggers.Crf.fit(*given), "a second fit gives the same model"
    tagger = pycrfsuite.Tagger()
    tagger.open_inmemory(fitted.model)
    theirs = [[int(tag) for tag in tagger.tag(taggers.features(text.split()))] for text in asked.texts]
    words = made.predictions(asked).extras["words"]
    assert [entities_of(*pair, ("LOC", "PER")) for pair in zip(words, theirs, strict=True)] == asked.labels.tolist()


def test_features_of_a_word_at_the_border_of_a_text() -> None:
    first, last = taggers.features(["McRae", "2-1"])
    assert {"word=McRae", "lower=mcrae", "shape=XxXx", "prefix=mcra", "suffix=e", "-1:outside", "1:lower=2-1"} < {
        *first
    }
    assert {"shape=0-0", "-1:shape=XxXx", "2:outside"} < {*last}
    assert taggers.features([]) == []


def test_a_study_measures_the_crf_only_if_it_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    task = Task("words", OBJECTIVE.label_names, TRAIN, ASKED, kind="entities")
    monkeypatch.setattr(Task, "load", lambda *_: task)
    spec = SimpleNamespace(task="words", data=ReadingOptions(), data_digest=None, without_digest=None)
    with Results.hold(tmp_path) as held:
        quick = baselines.measure(spec, held)
        assert [one.record.name for one in quick] == [WORD_TAGS, GAZETTEER]
        named = baselines.measure(spec, held, ("crf",))
        assert [one.record.name for one in named] == [WORD_TAGS, GAZETTEER, CRF]
        for one in baselines.read(held.directory):
            assert one.values("entity_f1").mean() == pytest.approx(one.record.metrics["entity_f1"])
        with pytest.raises(InvalidStudy) as refused:
            baselines.measure(spec, held, ("svm",))
    assert refused.value.code == "study.baseline-unknown"


def test_without_the_extra_the_crf_is_refused_and_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pycrfsuite", None)
    with pytest.raises(NotFound) as missing:
        floors.fit_slow("crf", TRAIN, OBJECTIVE)
    assert missing.value.code == "extra.missing"
    assert "afina[crf]" in str(missing.value)
