"""Where runs are executed: `--executor`, and `executor` in a study file. A made-up executor stands for Ray."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from afina import Backbone, Study
from afina.errors import InvalidStudy, NotFound
from afina.events import Listener, Says
from afina.report.progress import Lines
from afina.studies.executors import by_name
from afina.studies.executors.executor import Executor
from afina.studies.runs.record import Record
from afina.studies.runs.run import Run
from command import Command, InventedExecutor

STUDY = """
name = "small"
backbone = "gpt2"
task = "sst2"
[methods.full]
[methods.lora]
targets = ["c_attn"]
"""
ON_RAY = {"name": "s", "backbone": "gpt2", "task": "sst2", "methods": {"full": {}}, "executor": "ray"}
CLUSTER = "Ray cluster at 10.0.0.1:6379: 3 nodes, 6 CPUs"


class FakeRay(InventedExecutor):
    """What the command line asks of Ray. `made` has every executor so far."""

    made: list[FakeRay]

    def __init__(
        self,
        address: str | None = None,
        *,
        slots: int | None = None,
        devices: int = 1,
        shard: bool = False,
        ship_backbone: bool = False,
        storage: str | None = None,
        says: Says = print,
    ) -> None:
        super().__init__()
        self.given = {"address": address, "slots": slots, "ship_backbone": ship_backbone, "storage": storage}
        self.given |= {"devices": devices, "shard": shard}
        self.says, self.ran, self.closed = says, list[str](), 0
        self.made.append(self)

    def check(self, run: Run) -> str:
        self.says(CLUSTER)
        return ""

    def carry_out(self, run: Run, out: Path, study: str, listen: Listener, until: float | None = None) -> Record:
        assert not self.closed
        self.ran.append(run.title)
        return super().carry_out(run, out, study, listen, until)

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[FakeRay]]:
    """The executors that were made."""
    module: Any = ModuleType("afina.studies.executors.ray_executor")
    module.RayExecutor = FakeRay
    monkeypatch.setitem(sys.modules, module.__name__, module)
    FakeRay.made = []
    yield FakeRay.made
    assert all(one.closed == 1 for one in FakeRay.made)


def in_a_file(**keys: str) -> str:
    Path("small.toml").write_text("".join(f'{key} = "{keys[key]}"\n' for key in keys) + STUDY, encoding="utf-8")
    return "small.toml"


def test_the_options_reach_ray_and_what_it_says_is_shown_once(afina: Command, made: list[FakeRay]) -> None:
    options = ("--executor", "ray=10.0.0.1:6379", "--jobs", 3, "--ship-backbone", "--storage", "s3://mine/runs")
    options += ("--devices", 2, "--shard")
    answer = afina("study", in_a_file(), "--out", "out", *options)
    assert answer.code == 0, answer.err
    (one,) = made
    assert one.given == {
        "address": "10.0.0.1:6379",
        "slots": 3,
        "ship_backbone": True,
        "storage": "s3://mine/runs",
        "devices": 2,
        "shard": True,
    }
    assert one.ran == ["full", "lora"]
    assert answer.err.count(CLUSTER) == 1


def test_a_study_file_names_the_executor_and_the_option_comes_first(
    afina: Command, made: list[FakeRay], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An executor is in no key: runs of one are not repeated by another, and recorded runs need no cluster."""
    source = in_a_file(executor="ray=10.0.0.1:6379")
    assert Study.load(source).runs() == Study.load(in_a_file()).runs()
    source = in_a_file(executor="ray=10.0.0.1:6379")
    assert afina("study", source, "--out", "out").code == 0
    given = {"address": "10.0.0.1:6379", "slots": None, "ship_backbone": False, "storage": None}
    given |= {"devices": 1, "shard": False}
    assert [one.given for one in made] == [given], "as many jobs as the cluster holds"

    def connects(self: Executor) -> int:
        raise AssertionError("the cluster was asked for its slots")

    monkeypatch.setattr(FakeRay, "slots", property(connects))
    for address, asked in (("10.0.0.1", ()), ("10.0.0.2", ("--executor", "ray=10.0.0.2:6379"))):
        again = afina("study", source, "--out", "out", *asked)
        assert again.code == 0, again.err
        assert again.err.count("(recorded before)") == 2
        assert made[-1].given["address"] == f"{address}:6379"
    assert afina("study", source, "--out", "out", "--executor", "local").code == 0
    assert len(made) == 3


def test_train_executes_one_run_in_the_executor(afina: Command, made: list[FakeRay], gpt2: Backbone, toy: str) -> None:
    answer = afina("train", "--task", toy, "--backbone", gpt2.address, "--executor", "ray", "--out", "out")
    assert answer.code == 0, answer.err
    (one,) = made
    assert one.ran == ["lora"]


@pytest.mark.parametrize("name", ["rays", "ray=", "local=here"])
@pytest.mark.parametrize("command", ["study", "train", "choose"])
def test_a_name_of_no_executor_is_refused(afina: Command, command: str, name: str) -> None:
    source = [in_a_file()] if command == "study" else ["--task", "nowhere.csv"]
    told = afina(command, *source, "--executor", name).error
    assert told == f"--executor {name}: expected local, ray or ray=ADDRESS, such as ray=10.0.0.1:6379."


def test_without_ray_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith(("afina.studies.executors.", "afina.cluster"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(NotFound) as caught:
        by_name.make("ray")
    assert (caught.value.code, caught.value.fields) == ("extra.missing", {"extra": "ray"})


def test_a_study_file_with_a_wrong_name_is_named() -> None:
    with pytest.raises(InvalidStudy, match=r"^mine.toml: executor spark: expected local, ray or ray=ADDRESS"):
        Study.parse(
            {"name": "s", "backbone": "b", "task": "t", "methods": {"lora": {}}, "executor": "spark"}, "mine.toml"
        )


@pytest.mark.parametrize("option", [("--ship-backbone",), ("--storage", "/shared")])
@pytest.mark.parametrize("executor", [(), ("--executor", "local")])
def test_options_of_a_cluster_are_refused_without_one(
    afina: Command, option: tuple[str, ...], executor: tuple[str, ...]
) -> None:
    told = afina("study", in_a_file(), *option, *executor).error
    assert told == (f"{option[0]} has no effect on this machine. Set --executor to ray, or leave {option[0]} out.")


def test_one_device_is_not_sharded(afina: Command) -> None:
    told = afina("study", in_a_file(), "--shard").error
    assert told.startswith("--shard has no effect on one device")
    assert "Set --devices to 2 or more" in told
    with pytest.raises(InvalidStudy) as caught:
        by_name.make("local", devices=0)
    assert (caught.value.code, caught.value.fields) == ("option.invalid", {"option": "devices", "found": 0})


def test_the_library_makes_the_studys_executor_and_closes_it_whatever_happens(
    made: list[FakeRay], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = Study.parse(ON_RAY, "s")
    said: list[str] = []
    study.run(tmp_path, Lines(said.append))
    assert said[0] == CLUSTER
    assert made[0].ran == ["full"]

    def interrupt(self: Executor, *given: Any) -> Record:
        raise KeyboardInterrupt

    monkeypatch.setattr(FakeRay, "carry_out", interrupt)
    with pytest.raises(KeyboardInterrupt):
        study.run(tmp_path / "again")
    assert len(made) == 2


def test_an_executor_that_was_given_is_used_and_stays_open(made: list[FakeRay], tmp_path: Path) -> None:
    study = Study.parse(ON_RAY, "s")
    given = FakeRay()
    study.run(tmp_path, executor=given)
    assert made == [given]
    assert not given.closed
    given.close()
