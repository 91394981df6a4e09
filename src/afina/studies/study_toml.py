"""The study file that repeats recorded results: of a study, or of the recommended method of a recommendation."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from afina.methods import asks_endpoint, recorded
from afina.models.label_prompts import label_texts
from afina.studies import problems
from afina.studies.choosing.recommendation import Recommendation
from afina.studies.descriptions import StudyRequest, read_recommendation, read_request
from afina.studies.runs.output_directory import OutputDirectory
from afina.studies.runs.record import Record
from afina.studies.study import Study
from afina.training.settings import Training


def study_of(out: str | Path) -> Study:
    """Return the study that repeats the results in `out`, with the settings that tuning chose.

    A recommendation is repeated by a study of the recommended method, on all training texts. Raises NotFound without a
    finished run, InvalidData, or InvalidStudy if the recommendation is a baseline, which no study trains.
    """
    directory = OutputDirectory(Path(out))
    if not directory.holds_results:
        raise problems.RESULTS_MISSING(file=directory.records.name, path=directory.out)
    if directory.recommendation.is_file():
        content = _of_recommendation(read_recommendation(directory.recommendation), directory)
    else:
        content = _of_request(read_request(directory.study))
    return Study.parse(content, str(directory.out))


def recommended_study(out: str | Path) -> Study:
    """Return `study_of` for a recommendation in `out`. Raises NotFound if `out` has no recommendation."""
    file = OutputDirectory(Path(out)).recommendation
    if not file.is_file():
        raise problems.RECOMMENDATION_MISSING(file=file.name, path=out)
    return study_of(out)


def as_toml(study: Study) -> str:
    """Return the text of a study file, without the fields that have their defaults."""
    content = {**study.non_defaults(), "train": study.train.stated, "data": study.data.given, "methods": study.methods}
    return _table({name: value for name, value in content.items() if value != {}})


def _of_request(request: StudyRequest) -> dict[str, Any]:
    content = {name: value for name, value in request.study.items() if name != "tune" and value is not None}
    # outputs of lower blocks that an earlier version kept differed only by rounding from those of each step
    left_out = {"trunk", "ask_again", *(["search"] if request.study.get("tune") else [])}
    content["train"] = {key: value for key, value in content.get("train", {}).items() if key not in left_out}
    content["methods"] = {
        name: {key: value for key, value in table.items() if key not in left_out}
        for name, table in content["methods"].items()
    }
    return content


def _of_recommendation(made: Recommendation, directory: OutputDirectory) -> dict[str, Any]:
    key = made.contender(made.recommended).key
    record = next((one for one in directory.read() if one.key == key), None)
    if record is None:
        raise problems.BASELINE_NOT_A_STUDY(path=directory.out, method=made.recommended)
    return {
        "name": made.name,
        **({} if asks_endpoint(record.method) else {"backbone": record.backbone}),
        "task": made.task,
        "metric": made.metric,
        "seeds": [record.seed],
        "data": made.data.given,
        "baselines": True,
        "methods": {record.method: _settings(record)},
    }


def _settings(record: Record) -> dict[str, Any]:
    """The table of a method in a study: its hyperparameters, training settings and prompt."""
    method = recorded(record.method, record.hyperparameters)
    if method.asks_endpoint:
        words = {"words": record.ask.words} if record.ask.words else {}
        return {**method.non_defaults, "template": record.ask.template, **words}
    known = {name: value for name, value in record.training.items() if name in Training.model_fields}
    training = Training(**known).stated
    settings = {**method.non_defaults, **{key: value for key, value in training.items() if key not in method.ignores}}
    if method.head == "random" or method.is_fitted:
        texts = record.fitted.label_texts if record.fitted else None
        return settings | ({} if texts in (None, label_texts(record.label_names, None)) else {"words": texts})
    asked = record.ask
    settings |= {"head": "words", "words": asked.words} if asked.words else {"head": "random"}
    settings |= {"template": asked.template} if asked.template else {}
    settings |= {"offset": True} if asked.offset else {}
    return settings


_BARE = re.compile(r"[A-Za-z0-9_-]+")


def _table(content: Mapping[str, Any], place: str = "") -> str:
    """Return a TOML table: its values, then the tables in it."""
    plain = {key: value for key, value in content.items() if not isinstance(value, Mapping) and value is not None}
    lines = [f"{_key(key)} = {_value(value)}" for key, value in plain.items()]
    made = [f"[{place}]", *lines] if place and (lines or not content) else lines
    text = "\n".join(made)
    inside = [
        _table(value, f"{place}.{_key(key)}" if place else _key(key))
        for key, value in content.items()
        if isinstance(value, Mapping)
    ]
    return "\n\n".join([part.rstrip("\n") for part in (text, *inside) if part]) + "\n"


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else _value(key)


def _value(value: Any) -> str:
    """Return a value as TOML: its strings are JSON's, apart from DEL."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(key)} = {_value(one)}" for key, one in value.items()) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(_value(one) for one in value) + "]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value) if isinstance(value, float) else json.dumps(value)
