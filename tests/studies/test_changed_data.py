"""Results do not outlive their data: a record counts only while its files hold what they held."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from afina import Backbone, Results, Study
from afina.data.reading_options import ReadingOptions
from afina.data.task import Task
from afina.errors import InvalidData, NotFound
from afina.events import Listener, ValidationScore
from afina.meter import now
from afina.models import objectives
from afina.models.backbone_spec import files_digest
from afina.models.manifest import FORMAT, MANIFEST
from afina.studies import adapter_paths
from afina.studies.choosing.setup import ChoiceSetup, Way
from afina.studies.choosing.time_budget import TimeBudget
from afina.studies.executors import by_name
from afina.studies.executors.local_executor import LocalExecutor
from afina.studies.runs.inputs import TaskFacts
from afina.studies.runs.record import Record
from afina.studies.runs.run import Run
from afina.studies.runs.spec import Ask
from afina.studies.watcher import Watcher
from afina.training.settings import Training
from command import Command, InventedExecutor
from fakes import sentences, write_csv
from raises import raises
from records import carried_out, environment
from scribe import Scribe

COUNT = 60
BAD_AND_GOOD = ("bad", "good")


class LookingExecutor(InventedExecutor):
    """Data are read as they are, runs and trials are invented."""

    def __init__(self) -> None:
        super().__init__()
        self.carried: list[Run] = []
        self.tried: list[Run] = []

    def look(self, run: Run) -> TaskFacts | None:
        return LocalExecutor().look(run)

    def carry_out(self, run: Run, out: Path, study: str, listen: Listener, until: float | None = None) -> Record:
        self.carried.append(run)
        task = Task.load(run.task, run.data)
        where = environment(train_digest=task.train.digest, evaluation_digest=task.evaluation.digest)
        facts = {
            **{"key": run.key, "study": study, "name": run.title, "seed": run.seed, "task": run.task},
            **{"environment": where, "label_names": task.label_names, "data_digest": run.data_digest},
            **{"train_examples": len(task.train), "examples": 5},
        }
        return carried_out(out, [0, 1, 0, 0, 1], [0, 1, 1, 0, 1], run.method, run.label, **facts)

    def try_out(
        self, run: Run, shares: Any, limit: Any, goes_on: Callable[[ValidationScore], bool], *_: Any
    ) -> ValidationScore:
        self.tried.append(run)
        for share in shares:
            score = ValidationScore(round(8 * share), 8, 12, 0.5, 0.6)
            if not goes_on(score):
                break
        return score


def rows(labels: tuple[str, str] = BAD_AND_GOOD, count: int = COUNT) -> list[tuple[str, str]]:
    return [(text, labels[label]) for text, label in sentences(count)]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write_csv(tmp_path / "held_out.csv", rows()[:10])
    return write_csv(tmp_path / "texts.csv", rows()[10:])


def asked(file: Path, **changes: Any) -> Study:
    content = {"name": "two", "backbone": "gpt2", "task": str(file), "methods": {"full": {}, "lora": {}}}
    return Study.parse(content | changes, "two")


def other_file(file: Path) -> dict[str, Any]:
    return {"data": {"evaluation": str(file.with_name("held_out.csv"))}}


CHANGES: dict[str, Callable[[Path], object]] = {
    "labels swapped": lambda file: write_csv(file, [(t, {"bad": "good", "good": "bad"}[y]) for t, y in rows()[10:]]),
    "labels renamed": lambda file: write_csv(file, [(t, {"bad": "awful", "good": "great"}[y]) for t, y in rows()[10:]]),
    "rows added": lambda file: write_csv(file, rows(count=COUNT + 20)[10:]),
    "rows in another order": lambda file: write_csv(file, rows()[:9:-1]),
    "the other file edited": lambda file: write_csv(file.with_name("held_out.csv"), rows()[2:10]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_data_are_another_run_and_earlier_results_stay(tmp_path: Path, file: Path, change: str) -> None:
    executor, out, scribe = LookingExecutor(), tmp_path / "out", Scribe()
    more = other_file(file) if change == "the other file edited" else {}
    first = asked(file, **more).run(out, executor=executor)
    before = {
        path: path.read_bytes()
        for path in out.rglob("*")
        if path.parent.name in ("adapters", "predictions")
        if path.is_file()
    }
    again = asked(file, **more).run(out, scribe, executor=executor)
    assert again.records == first.records
    assert len(executor.carried) == 2
    assert not [line for line in scribe.told if "changed" in line]

    CHANGES[change](file)
    if change == "labels renamed":
        write_csv(file.with_name("held_out.csv"), rows(("awful", "great"))[:10])
    other = asked(file, **more).run(out, scribe, executor=executor)
    assert len(executor.carried) == 4
    assert {one.key for one in other.records}.isdisjoint(one.key for one in first.records)
    assert {one.adapter for one in other.records}.isdisjoint(one.adapter for one in first.records)
    said = [line for line in scribe.told if "changed" in line]
    assert said == [
        f"task {file}: the data changed after full, seed 0 and 1 more was recorded. The runs are executed on the "
        f"new data; the earlier adapter stays in {out / first.records[0].adapter}."
    ]
    assert all(path.read_bytes() == content for path, content in before.items())
    assert Results.read(out).records == other.records
    assert adapter_paths.find_adapter(out, "lora").path == out / other.records[1].adapter
    assert asked(file, **more).run(out, scribe, executor=executor).records == other.records
    assert [line for line in scribe.told if "changed" in line] == said


def test_data_as_they_were_have_their_first_results_unless_fresh_is_asked(tmp_path: Path, file: Path) -> None:
    executor, out = LookingExecutor(), tmp_path / "out"
    first = asked(file).run(out, executor=executor)
    CHANGES["rows added"](file)
    asked(file).run(out, executor=executor)
    write_csv(file, rows()[10:])
    assert asked(file).run(out, executor=executor).records == first.records
    assert len(executor.carried) == 4
    assert asked(file).run(out, executor=executor, fresh=True).records == first.records
    assert len(executor.carried) == 6
    assert len(Results.read(out).records) == 2


@pytest.mark.parametrize(
    ("spoil", "kind", "said"),
    [
        (lambda file: file.unlink(), NotFound, {"code": "task.missing", "task": "texts.csv"}),
        (lambda file: file.write_text("text,label\n"), InvalidData, {"code": "data.no-rows", "path": "texts.csv"}),
    ],
    ids=["gone", "emptied"],
)
def test_a_file_that_is_gone_or_empty_is_an_error_and_its_results_stay_readable(
    tmp_path: Path, file: Path, spoil: Callable[[Path], object], kind: type[Exception], said: dict[str, Any]
) -> None:
    executor, out = LookingExecutor(), tmp_path / "out"
    first = asked(file).run(out, executor=executor)
    spoil(file)
    with raises(kind, **said) as raised:
        asked(file).run(out, executor=executor)
    assert str(raised.value).endswith(f"The results in {out} stay readable: afina show {out}")
    assert Results.read(str(out)).records == first.records
    assert adapter_paths.find_adapter(str(out), "lora").path == out / first.records[1].adapter
    assert not (tmp_path / "new").exists()
    with pytest.raises(kind):
        asked(file).run(tmp_path / "new", executor=executor)
    assert not (tmp_path / "new").exists()


def test_a_directory_of_a_task_s_own_files_is_looked_at_as_a_file_is(tmp_path: Path) -> None:
    place = tmp_path / "CoLA"
    place.mkdir()
    for name in ("train", "dev"):
        lines = [f"x\t{label}\t\t{name} {text}" for text, label in sentences(20)]
        (place / f"{name}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    executor, study = LookingExecutor(), asked(Path(f"glue/cola:{place}"))
    study.run(tmp_path / "out", executor=executor)
    (place / "dev.tsv").write_text("\n".join(f"x\t{n % 2}\t\tanother {n}" for n in range(9)) + "\n", encoding="utf-8")
    study.run(tmp_path / "out", executor=executor)
    assert len(executor.carried) == 4


class Moved(InventedExecutor):
    """Data at an address of the Hub, which are what the test says; records have the digests of when they were made."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.carried = "1", 0

    def look(self, run: Run) -> TaskFacts | None:
        facts = {"data_digest": f"sha256:{self.now}", "train_digest": f"sha256:t{self.now}"}
        facts |= {"evaluation_digest": "sha256:e", "label_names": ("negative", "positive")}
        return TaskFacts(**dict.fromkeys(TaskFacts.__dataclass_fields__) | facts)

    def carry_out(self, run: Run, out: Path, study: str, listen: Listener, until: float | None = None) -> Record:
        self.carried += 1
        where = environment(train_digest=f"sha256:t{self.now}", evaluation_digest="sha256:e")
        facts = {"key": run.key, "name": run.title, "data_digest": run.data_digest, "environment": where}
        return carried_out(out, [0, 1, 0, 0, 1], [0, 1, 1, 0, 1], run.method, run.label, **facts)


def test_runs_on_the_hub_s_data_keep_their_keys_until_these_data_change(tmp_path: Path) -> None:
    executor, study = Moved(), asked(Path("sst2"))
    first = study.run(tmp_path, executor=executor)
    assert [one.key for one in first.records] == [run.key for run in study.runs()]
    assert study.run(tmp_path, executor=executor).records == first.records
    executor.now = "2"
    other = study.run(tmp_path, executor=executor)
    assert executor.carried == 4
    assert {one.adapter for one in other.records}.isdisjoint(one.adapter for one in first.records)
    assert study.run(tmp_path, executor=executor).records == other.records
    executor.now = "1"
    assert study.run(tmp_path, executor=executor).records == first.records


def test_what_never_changes_and_what_takes_a_network_is_not_looked_at() -> None:
    for task in ("snippets:movies", "glue/rte"):  # neither is in the tests' cache
        assert LocalExecutor().look(Run(backbone="gpt2", task=task, method="lora")) is None


def test_a_tuning_begins_anew_where_the_data_changed_or_where_that_is_asked_for(tmp_path: Path, file: Path) -> None:
    executor, out = LookingExecutor(), tmp_path / "out"
    study = asked(file, tune={"candidates": 1}, methods={"lora": {}})
    study.run(out, executor=executor)
    tried = len(executor.tried)
    assert tried
    study.run(out, executor=executor)
    assert len(executor.tried) == tried
    CHANGES["labels swapped"](file)
    study.run(out, executor=executor)
    assert len(executor.tried) == 2 * tried
    study.run(out, executor=executor, fresh=True)
    assert len(executor.tried) == 3 * tried


def test_a_recommendation_s_runs_are_of_the_data_as_they_are(file: Path) -> None:
    def run() -> Run:
        task, asked = Task.load(str(file)), objectives.make(("negative", "positive"))
        clock, executor = TimeBudget(now(), 1.0), InventedExecutor()
        setting = ChoiceSetup(task, ReadingOptions(), ("gpt2",), Ask(), clock, Watcher(), executor, asked, "accuracy")
        return setting.run(Way("gpt2", "lora"), train_examples=20)

    first = run()
    assert first.data_digest is not None
    assert run().label == first.label
    CHANGES["rows added"](file)
    assert run().label != first.label


@pytest.mark.parametrize("changes", [{"digest": "sha256:another"}, {"format": FORMAT - 1}], ids=str)
def test_a_record_with_another_or_an_earlier_adapter_is_made_again(
    tmp_path: Path, file: Path, changes: dict[str, Any]
) -> None:
    executor, out = LookingExecutor(), tmp_path / "out"
    first = asked(file).run(out, executor=executor)
    manifest = out / first.records[0].adapter / MANIFEST
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | changes))
    assert asked(file).run(out, executor=executor).records == first.records
    assert [run.title for run in executor.carried] == ["full", "lora", "full"]


BACKBONE_CHANGES: dict[str, tuple[str, bytes, bytes]] = {
    "the configuration": ("config.json", b'"n_positions": 256', b'"n_positions": 128'),
    "the weights": ("model.safetensors", b"", b""),
    "the tokenizer": ("tokenizer.json", b'"version": "1.0"', b'"version": "1.1"'),
}


@pytest.mark.parametrize("change", BACKBONE_CHANGES)
def test_changed_files_of_a_backbone_make_another_run(gpt2: Backbone, tmp_path: Path, file: Path, change: str) -> None:
    place, executor = shutil.copytree(gpt2.path, tmp_path / "model"), LookingExecutor()
    study = asked(file, backbone=str(place))
    first = study.run(tmp_path / "out", executor=executor)
    study.run(tmp_path / "out", executor=executor)
    assert len(executor.carried) == 2
    name, before, after = BACKBONE_CHANGES[change]
    content = (place / name).read_bytes()
    changed = content.replace(before, after) if before else content[:-1] + bytes([content[-1] ^ 1])
    assert changed != content
    (place / name).write_bytes(changed)
    other = study.run(tmp_path / "out", executor=executor)
    assert len(executor.carried) == 4
    assert {one.key for one in other.records}.isdisjoint(one.key for one in first.records)
    (place / name).write_bytes(content)
    assert {one.key for one in study.run(tmp_path / "out", executor=executor).records} == {
        one.key for one in first.records
    }
    assert len(executor.carried) == 4


def test_a_backbone_that_changes_after_a_run_was_asked_for_ends_it(gpt2: Backbone, tmp_path: Path, file: Path) -> None:
    place = shutil.copytree(gpt2.path, tmp_path / "model")
    run = Run(backbone=str(place), task=str(file), method="head", training=Training(max_steps=1))
    of_now = run.with_digests(backbone_files=files_digest(str(place)))
    content = json.loads((place / "config.json").read_text()) | {"layer_norm_epsilon": 0.1}
    (place / "config.json").write_text(json.dumps(content))
    with raises(InvalidData, code="data.changed", backbone="model"):
        of_now.execute(tmp_path / "out")
    record = run.execute(tmp_path / "out")
    assert run.adapter(tmp_path / "out") == tmp_path / "out" / record.adapter


def test_data_that_change_after_a_run_was_asked_for_end_it(gpt2: Backbone, tmp_path: Path, file: Path) -> None:
    run = Run(backbone=gpt2.address, task=str(file), method="head", training=Training(max_steps=1))
    of_now = run.with_digests(data_digest=Task.load(str(file)).data_digest)
    CHANGES["labels swapped"](file)
    with raises(InvalidData, code="data.changed", task="texts.csv"):
        of_now.execute(tmp_path / "out")
    record = run.execute(tmp_path / "out")
    assert record.data_digest == Task.load(str(file)).data_digest
    assert run.adapter(tmp_path / "out") == tmp_path / "out" / record.adapter
    assert of_now.adapter(tmp_path / "out") != run.adapter(tmp_path / "out")


def test_the_commands_say_what_changed_and_what_is_gone(
    afina: Command, gpt2: Backbone, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = LookingExecutor()
    monkeypatch.setattr(by_name, "LocalExecutor", lambda slots, **_: executor)
    train = ["train", "--task", file, "--backbone", gpt2.address, "--method", "head"]
    assert [afina(*train).code, afina(*train).code, len(executor.carried)] == [0, 0, 1]
    CHANGES["labels swapped"](file)
    assert afina(*train).err.count("the data changed after head, seed 0") == 1
    assert len(executor.carried) == 2
    assert [afina(*train, "--fresh").code, len(executor.carried)] == [0, 3]
    shutil.move(file, file.with_suffix(".moved"))
    assert "no such file" in afina(*train).error
    assert afina("show", "results/train").code == 0
