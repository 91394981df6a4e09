"""Whatever is in a file that afina reads: an answer or an AfinaError of one or two lines, soon, and nothing is left.

1,635 cases; `AFINA_FUZZ=10` multiplies them, drawn anew each time.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Callable
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rubbish import cells, documents, lines, mangled, parquets, studies, tables

from afina import Adapter, Backbone, Predictor, Study, Task
from afina.data.inspection import inspect
from afina.data.readers.texts import chunks
from afina.data.reading_options import ReadingOptions
from afina.errors import AfinaError
from afina.report.report import Report
from afina.stats.comparison import compare
from afina.studies import trials
from afina.studies.choosing import floors
from afina.studies.choosing.recommendation import Contender, Dropped, Recommendation
from afina.studies.descriptions import StudyRequest
from afina.studies.results import Results
from afina.studies.runs import record
from afina.studies.runs.output_directory import OutputDirectory
from afina.studies.trials import Trial, Tuned
from records import carried_out

pytestmark = pytest.mark.slow

TIMES = int(os.environ.get("AFINA_FUZZ", "1"))


def cases(count: int) -> settings:
    return settings(
        max_examples=count * TIMES,
        deadline=timedelta(seconds=20),
        database=None,
        derandomize=TIMES == 1,
        suppress_health_check=list(HealthCheck),
    )


def holds(root: Path, act: Callable[[], object]) -> None:
    """Nothing but an AfinaError, with a message of one or two lines; the files are those that were there."""
    before, message = sorted(root.rglob("*")), "none"
    try:
        act()
    except AfinaError as error:
        message = str(error)
    assert message.strip()
    assert message.count("\n") <= 1, message
    assert sorted(root.rglob("*")) == before


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "files"
    made.mkdir()
    return made


FORMATS: dict[str, st.SearchStrategy[bytes]] = {
    "csv": tables(","),
    "tsv": tables("\t"),
    "jsonl": lines(),
    "parquet": parquets(),
}


@pytest.mark.parametrize("kind", FORMATS)
def test_a_task(kind: str, folder: Path) -> None:
    path = folder / f"x.{kind}"

    @cases(75)
    @given(FORMATS[kind])
    def law(data: bytes) -> None:
        path.write_bytes(data)
        holds(folder, lambda: Task.load(str(path)))

    law()


@pytest.mark.parametrize("kind", FORMATS)
def test_an_inspection_says_in_small_json_what_is_wrong_and_its_remedies_are_options(kind: str, folder: Path) -> None:
    path = folder / f"x.{kind}"

    def inspected() -> None:
        found = inspect(str(path))
        assert (found.kind is None) == any(doubt.refuses for doubt in found.doubts)
        assert len(json.dumps(asdict(found))) < 500_000
        for doubt in found.doubts:
            assert doubt.words.strip()
            for remedy in doubt.remedies:
                ReadingOptions(**remedy.options)

    @cases(75)
    @given(FORMATS[kind])
    def law(data: bytes) -> None:
        path.write_bytes(data)
        holds(folder, inspected)

    law()


@pytest.mark.parametrize("kind", FORMATS)
def test_a_task_of_texts_to_write(kind: str, folder: Path) -> None:
    path = folder / f"x.{kind}"

    @cases(50)
    @given(FORMATS[kind])
    def law(data: bytes) -> None:
        path.write_bytes(data)
        holds(folder, lambda: Task.load(str(path), text="text", target="label", missing="skip"))

    law()


SQUAD = {
    "data": [
        {
            "title": f"t {i}",
            "paragraphs": [{"context": f"c {i}", "qas": [{"question": f"q {i}", "answers": [{"text": f"a {i}"}]}]}],
        }
        for i in range(4)
    ]
}


def test_a_file_of_squad(folder: Path) -> None:
    path = folder / "x.json"

    @cases(75)
    @given(documents(SQUAD))
    def law(data: bytes) -> None:
        path.write_bytes(data)
        holds(folder, lambda: Task.load(f"squad:{path}"))

    law()


@pytest.mark.parametrize("kind", [*FORMATS, "txt"])
def test_texts_to_label(kind: str, folder: Path) -> None:
    path = folder / f"x.{kind}"

    def read() -> None:
        with chunks(path) as parts:
            for part in parts:
                assert all(isinstance(text, str) for text in part.texts)

    @cases(50)
    @given(FORMATS.get(kind, st.lists(cells).map("\n".join).map(lambda text: text.encode("utf-8", "surrogatepass"))))
    def law(data: bytes) -> None:
        path.write_bytes(data)
        holds(folder, read)

    law()


@pytest.mark.parametrize("name", ["manifest.json", "adapter_config.json"])
def test_an_adapter(name: str, folder: Path, trained: Path, gpt2: Backbone) -> None:
    shutil.copytree(trained, folder / "a")
    if name == "adapter_config.json":
        (folder / "a" / "manifest.json").unlink()
    path = folder / "a" / name
    original = json.loads(path.read_text())

    def use() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # peft says in one what it does not know, and goes on
            Predictor.of(Adapter.load(folder / "a"), gpt2)(["a fine day"])

    def own_digest(data: bytes) -> bytes:
        """With the digest that its fields have: the edits that somebody makes on purpose."""
        from afina.models.adapter import Manifest

        try:
            content = json.loads(data)
            content.pop("digest", None)
            return json.dumps(content | {"digest": Manifest.model_validate(content).digest}).encode()
        except (ValueError, TypeError, AttributeError, RecursionError):
            return data

    @cases(75)
    @given(documents(original) | documents(original).map(own_digest))
    def law(data: bytes) -> None:
        path.write_bytes(data)
        holds(folder, use)

    law()


def test_tensors(folder: Path, trained: Path, gpt2: Backbone) -> None:
    shutil.copytree(trained, folder / "a")
    path = folder / "a" / "adapter_model.safetensors"

    @cases(50)
    @given(mangled(path.read_bytes()))
    def law(data: bytes) -> None:
        path.write_bytes(data)
        holds(folder, lambda: Adapter.load(folder / "a"))

    law()


def test_a_study(folder: Path) -> None:
    path = folder / "x.toml"

    @cases(150)
    @given(studies())
    def law(data: bytes) -> None:
        path.write_bytes(data)
        holds(folder, lambda: [run.key for run in Study.load(str(path)).runs()])

    law()


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """What a tuned study and, in the same place, a recommendation leave, made by hand."""
    out = tmp_path / "finished"
    made = [
        carried_out(out, (0, 1, place, 0, 1), (0, 1, 1, 0, 1), method, f"{method}-0", key=f"sha256:{method}")
        for place, method in enumerate(("lora", "full"))
    ]
    record.write_records(OutputDirectory(out).records, [one.sealed() for one in made])
    keys = tuple(one.key for one in made)
    asked = {"name": "mine", "tune": {"candidates": 2}}
    names = tuple(one.name for one in made)
    of_study = {"keys": keys, "names": names, "study": asked, "command": ("afina", "study")}
    request = StudyRequest(name="mine", task="t.csv", data=ReadingOptions(), **of_study)
    OutputDirectory(out).study.write_text(request.model_dump_json())
    trial = Trial(setting={"learning_rate": 1e-3}, steps=4, value=0.5, seconds=1.0)
    trials.write_tuned(
        out, [Tuned(name="lora", method="lora", length=4, budget=8, trials=(trial,), setting=trial.setting)]
    )
    figures = {
        "metrics": {"accuracy": 0.6, "f1": 0.5},
        "examples": 20,
        "seconds": 1.0,
        "memory": 2**30,
        "trainable": 10,
        "total": 99,
    }
    contenders = (
        Contender(name=floors.TFIDF, metrics={"accuracy": 0.6, "f1": 0.6}, examples=20),
        *(Contender(name=one.method, rate=1e-3, steps=4, key=one.key, adapter=one.adapter, **figures) for one in made),
    )
    scores = {name: np.array([[1.0, 0.0, 1.0, 1.0, place]]) for place, name in enumerate(("lora", "full"))}
    recommendation = Recommendation(
        task="t.csv",
        data=ReadingOptions(),
        backbone="gpt2",
        recommended="lora",
        adapter=made[0].adapter,
        contenders=contenders,
        comparisons=tuple(compare(scores)),
        dropped={"prelayer": Dropped(why="memory", needed=2, available=1)},
        train_examples=20,
        examples=5,
        minutes=5,
        seconds=200,
    )
    OutputDirectory(out).recommendation.write_text(recommendation.sealed().model_dump_json())
    return out


@pytest.mark.parametrize("name", ["records.jsonl", "study.json", "tuning.json", "recommendation.json"])
def test_what_a_study_left(name: str, folder: Path, finished: Path) -> None:
    shutil.copytree(finished, folder / "out")
    path = folder / "out" / name
    if name != "recommendation.json":
        (folder / "out" / "recommendation.json").unlink()
    original = (
        [json.loads(line) for line in path.read_text().splitlines()]
        if name == "records.jsonl"
        else json.loads(path.read_text())
    )
    if name == "records.jsonl":
        whole = path.read_bytes()
        edits = documents(original[0]).map(lambda line: line.replace(b"\n", b" ") + b"\n") | mangled(whole)
    else:
        edits = documents(original)

    def show() -> None:
        json.dumps(Report.of(Results.read(folder / "out")).summary())

    @cases(40)
    @given(edits)
    def law(data: bytes) -> None:
        path.write_bytes(data)
        holds(folder, show)

    law()
