"""Runs on the nodes of a cluster, without a cluster: Ray tasks are executed in threads of this process."""

from __future__ import annotations

import queue
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from afina import Backbone, Study, digest, openmp
from afina.cluster import nodes
from afina.cluster.nodes import Node, Room
from afina.errors import AfinaError, InvalidData, InvalidStudy, NotFound, RunFailed
from afina.events import Progress
from afina.studies.executors import ray_executor, ray_run, ray_task
from afina.studies.executors.executor import Cancelled, MemoryForecast, Overrun
from afina.studies.executors.ray_executor import RayExecutor
from afina.studies.executors.ray_task import RunEnd, RunOrder, execute_order
from afina.studies.executors.shared_storage import SharedStorage
from afina.studies.executors.worker import CarryOut, Failed, GoOn, Message, Recorded, Scored, Stop
from afina.studies.runs.execute import execute, try_out
from afina.studies.watcher import Watcher
from chat_servers import chat, chat_server
from command import HereExecutor
from fakes import sentences, write_csv
from hosts import NODES, Places, Task, on_places, stored, without_cluster
from scribe import Scribe


class Worker:
    """What a worker's process does, in a thread; `ends` says how it ends, after how many steps."""

    ends: ClassVar[list[tuple[str, int]]] = []
    one_at_a_time: ClassVar[Any] = threading.Lock()
    """torch's random numbers are those of the whole process."""

    def __init__(
        self, request: Any, until: float | None, threads: int | None, *, environment: Mapping[str, str | None], **_: Any
    ) -> None:
        self.request, self.environment = request, environment
        self.how, self.after = self.ends.pop(0) if self.ends else ("done", 0)
        self.problem: Failed | None = None
        self.process = SimpleNamespace(returncode=0)
        self.replies: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self.cancelled = False

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def send(self, message: Message) -> None:
        self.replies.put(message)

    def cancel(self, *, at_once: bool) -> None:
        self.cancelled = True
        self.replies.put(Stop())

    def answers(self, listen: Callable[[Progress], None]) -> Iterator[Message]:
        with self.one_at_a_time:
            yield from self._answers(listen)

    def _answers(self, listen: Callable[[Progress], None]) -> Iterator[Message]:
        if self.how == "raises":
            self.process.returncode = 1
            return
        request, how = self.request, {"listen": self._stopping(listen), "located": self.request.located}
        assert "driver" not in str(request.located), "the process reads a file of the driver"
        try:
            if isinstance(request, CarryOut):
                yield Recorded(record=execute(request.run, Path(request.out), study=request.study, **how))
                return
            for score in try_out(request.run, request.shares, limit=request.limit, **how):
                yield Scored(score=score, last=score.step >= score.steps)
                if score.step < score.steps and not isinstance(self.replies.get(timeout=60), GoOn):
                    return
        except AfinaError as error:
            self.problem = Failed.of(error)
            self.process.returncode = error.exit_code
        except KeyboardInterrupt:
            self.process.returncode = -9

    def _stopping(self, listen: Callable[[Progress], None]) -> Callable[[Progress], None]:
        def hear(progress: Progress) -> None:
            listen(progress)
            if self.how != "done" and progress.phase == "train" and progress.step > self.after:
                raise KeyboardInterrupt

        return hear

    def failure(self) -> Exception:
        if self.how == "overrun":
            return Overrun()
        if self.cancelled or self.how == "cancelled":
            return Cancelled()
        return RunFailed("", code="run.killed" if self.process.returncode < 0 else "run.fault")


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    without_cluster(monkeypatch, tmp_path / "node")
    monkeypatch.setattr(ray_task, "WorkerProcess", Worker)
    monkeypatch.setattr(Worker, "ends", [])
    return Places()


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    return tmp_path / "storage"


@pytest.fixture
def executor(places: Places, storage: Path) -> Callable[[], RayExecutor]:
    def make() -> RayExecutor:
        made = RayExecutor(slots=2, ship_backbone=True, storage=str(storage))
        forecast = lambda runs, *_, **__: MemoryForecast(0, {run.key: 2**30 for run in runs})  # noqa: E731
        made._local.foresee_on = forecast  # type: ignore[method-assign]
        return on_places(made, places)

    return make


@pytest.fixture
def own(gpt2: Backbone, tmp_path: Path) -> dict[str, Any]:
    rows = [(text, ("bad", "good")[label]) for text, label in sentences(80)]
    shutil.copytree(gpt2.path, tmp_path / "driver" / "model")
    write_csv(tmp_path / "driver" / "rows.csv", rows[:60])
    write_csv(tmp_path / "driver" / "more.csv", rows[60:])
    return {
        "name": "remote",
        "backbone": str(tmp_path / "driver" / "model"),
        "task": str(tmp_path / "driver" / "rows.csv"),
        "data": {"evaluation": str(tmp_path / "driver" / "more.csv")},
        "train": {"max_steps": 6, "batch_size": 4, "dtype": "float32", "checkpoint_seconds": 0},
        "methods": {"lora": {}},
    }


SAME = {"key", "name", "seed", "digest", "predictions_digest", "losses", "task", "backbone", "adapter", "columns"}


def run_of(content: dict[str, Any], out: Path, executor: Any, watcher: Watcher | None = None) -> Any:
    return Study.parse(content, "remote").run(out, watcher, executor=executor)


def test_a_run_whose_process_is_killed_goes_on_from_its_checkpoint_and_leaves_only_its_inputs_in_the_storage(
    own: dict[str, Any], tmp_path: Path, places: Places, storage: Path, executor: Callable[[], RayExecutor]
) -> None:
    reference = run_of(own, tmp_path / "here", HereExecutor())
    Worker.ends[:] = [("killed", 3)]
    scribe = Scribe()
    there = run_of(own, tmp_path / "there", executor(), scribe)
    assert there.records[0].model_dump(include=SAME) == reference.records[0].model_dump(include=SAME)
    assert places.rooms[0] == Room(1, 2**30 + ray_executor.ROUNDED * 2)
    assert scribe.steps.count(1) == 1, "it began anew"
    (lost,) = [line for line in scribe.told if "lost" in line]
    assert "signal 9 killed its process on node host (10.0.0.1, aaaaaaaa)" in lost
    assert not list((tmp_path / "there").rglob("checkpoints/*"))
    (run,) = Study.parse(own, "remote").runs()
    assert stored(storage) == set(run.inputs().content), "its checkpoint stays"
    said = next((tmp_path / "there").rglob("manifest.json")).read_text(encoding="utf-8")
    assert str(tmp_path / "node") not in said


@pytest.mark.slow
def test_a_study_that_began_on_this_machine_goes_on_from_its_checkpoint(
    own: dict[str, Any], tmp_path: Path, storage: Path, executor: Callable[[], RayExecutor]
) -> None:
    (run,) = Study.parse(own, "remote").runs()

    def stop(progress: Progress) -> None:
        if progress.phase == "train" and progress.step > 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute(run, tmp_path / "there", study="remote", listen=stop)
    scribe = Scribe()
    there = run_of(own, tmp_path / "there", executor(), scribe)
    assert 1 not in scribe.steps
    assert there.records[0].digest == run_of(own, tmp_path / "here", HereExecutor()).records[0].digest


def test_a_file_that_is_not_in_the_storage_any_more_is_named(tmp_path: Path, storage: Path) -> None:
    place = SharedStorage(str(storage))
    (tmp_path / "file").write_text("content")
    content = digest.of_file(tmp_path / "file")
    place.put_content(content, tmp_path / "file")
    (tmp_path / "file").write_text("changed")
    place.put_content(content, tmp_path / "file")
    place.fetch(content, tmp_path / "copy")
    assert (tmp_path / "copy").read_text() == "content", "the storage has a copy, and no link"
    place.remove(content)
    with pytest.raises(NotFound) as caught:
        place.fetch(content, tmp_path / "copy")
    assert caught.value.code == "cluster.storage-unusable"
    with pytest.raises(InvalidData) as changed:
        place.put_content(content, tmp_path / "file")
    assert changed.value.code == "data.changed"
    assert stored(storage) == set()


def test_a_host_that_cannot_read_the_inputs_says_so(own: dict[str, Any], places: Places, storage: Path) -> None:
    (run,) = Study.parse(own, "remote").runs()
    asked = CarryOut(run=run, out="out", study="remote")
    (end,) = execute_order(RunOrder(asked, run.inputs(), str(storage), None, {}, "afina results", "executor"))
    assert isinstance(end, RunEnd)
    assert (end.outcome, end.cause) == ("failed", "cluster.storage-unusable")
    assert end.of_cause["storage"] == str(storage)


def test_a_node_whose_cache_directory_cannot_be_used_names_it(
    own: dict[str, Any], tmp_path: Path, storage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache").write_text("no directory")
    monkeypatch.setattr(ray_task.assets, "cache_directory", lambda: tmp_path / "cache")
    (run,) = Study.parse(own, "remote").runs()
    asked = CarryOut(run=run, out="out", study="remote")
    (end,) = execute_order(RunOrder(asked, run.inputs(), str(storage), None, {}, "afina results", "without cache"))
    assert isinstance(end, RunEnd)
    assert (end.outcome, end.cause) == ("failed", "file.cannot-write")
    assert f"run lora: {tmp_path / 'cache' / 'cluster'}" in end.error


def test_a_study_disconnects_and_waits_only_a_moment_where_a_node_hangs(
    executor: Callable[[], RayExecutor], monkeypatch: pytest.MonkeyPatch
) -> None:
    def on_each(there: object, function: object, key: str, *, timeout: float) -> None:
        assert timeout < 10
        raise RuntimeError("the cluster has ended")

    disconnected: list[object] = []
    monkeypatch.setattr(ray_executor.nodes, "on_each", on_each)
    monkeypatch.setattr(ray_executor, "disconnect", disconnected.append)
    made = executor()
    connection = made._connection
    made.close()
    assert disconnected == [connection]


def test_a_task_that_is_cancelled_before_its_thread_starts_cancels_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(thread: threading.Thread) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", start)
    worker = Worker(None, None, None, environment={})
    with pytest.raises(KeyboardInterrupt):
        list(ray_task._messages(worker, None, is_first=True))  # type: ignore[arg-type]
    assert worker.cancelled


def test_machines_without_common_files_are_named(
    storage: Path, executor: Callable[[], RayExecutor], monkeypatch: pytest.MonkeyPatch
) -> None:
    there = [Node(key * 16, f"10.0.0.{number}", "host", Room(1)) for number, key in enumerate("abc")]
    places = [str(storage), f"{storage}-of-its-own", None]  # the third node has died meanwhile
    answer = lambda of, call, place, name: {  # noqa: E731
        node.key: call(own, name) for node, own in zip(of, places, strict=True) if own
    }
    monkeypatch.setattr(ray_executor.nodes, "on_each", answer)
    with pytest.raises(NotFound) as caught:
        ray_executor._check_storage(SharedStorage(str(storage)), there)
    assert caught.value.code == "cluster.storage-unusable"
    assert [said.partition(":")[0] for said in caught.value.fields["nodes"]] == [f"node {there[1].name}"]
    assert stored(storage) == set(), "probes stay"


def test_without_storage_this_machine_is_the_only_node(
    tmp_path: Path, places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_executor.nodes, "elsewhere", list)
    assert RayExecutor()._shared_storage().address == str(tmp_path / "node" / "cluster" / "storage")
    other = Node("b" * 16, "10.0.0.2", "host", Room(1))
    monkeypatch.setattr(ray_executor.nodes, "elsewhere", lambda: [other])
    with pytest.raises(InvalidStudy) as caught:
        RayExecutor()._shared_storage()
    assert (caught.value.code, caught.value.fields) == ("option.missing", {"option": "storage", "nodes": [other.name]})


def test_a_node_that_dies_or_hangs_is_a_lost_machine(
    own: dict[str, Any],
    tmp_path: Path,
    places: Places,
    executor: Callable[[], RayExecutor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Disturbing(Scribe):
        def progress(self, run: Any, progress: Progress) -> None:
            super().progress(run, progress)
            if progress.phase == "train" and len(places.tasks) <= len(disturbances):
                monkeypatch.setattr(nodes, "living", lambda: NODES[1:])
                disturbances[len(places.tasks) - 1](places.tasks[-1])

        def says(self, words: str) -> None:
            super().says(words)
            monkeypatch.setattr(nodes, "living", lambda: NODES)

    def hang(task: Task) -> None:
        task.is_dead = True

    disturbances = [Task.die, hang]
    monkeypatch.setattr(ray_run, "_PAUSE", 0.05)
    scribe = Disturbing()
    there = run_of(own, tmp_path / "there", executor(), scribe)
    assert len(there.records) == 1
    assert sum("node host (10.0.0.1, aaaaaaaa) died" in line for line in scribe.told) == 2
    assert len(places.tasks) == 3


def test_an_error_of_a_run_names_what_the_run_names_and_no_path_of_the_node(
    own: dict[str, Any], tmp_path: Path, executor: Callable[[], RayExecutor]
) -> None:
    content = own | {"train": own["train"] | {"learning_rate": 1e20}}
    here = run_of(content, tmp_path / "here", HereExecutor())
    there = run_of(content, tmp_path / "there", executor())
    assert [one.error for one in there.failed] == [one.error for one in here.failed]
    assert not list((tmp_path / "there").rglob("checkpoints/*")), "training would diverge again"


def test_a_bug_in_one_run_is_told_and_is_not_repeated(
    own: dict[str, Any], tmp_path: Path, places: Places, executor: Callable[[], RayExecutor]
) -> None:
    Worker.ends[:] = [("raises", 0)]
    there = run_of(own | {"seeds": [0, 1]}, tmp_path / "there", executor())
    (failure,) = there.failed
    assert "a bug in afina" in failure.error
    assert len(there.records) == 1


def test_a_backbone_that_is_not_sent_keeps_its_place_or_commit(own: dict[str, Any], tmp_path: Path) -> None:
    (run,) = Study.parse(own, "remote").runs()
    inputs = run.inputs()
    kept = ray_run.inputs_to_send(inputs, ship_backbone=False)
    assert kept.backbone.address == own["backbone"]
    assert kept.backbone.files == ()
    assert inputs.evaluation is not None
    assert set(kept.content) == {file.digest for one in (inputs.task, inputs.evaluation) for file in one.files}
    assert ray_run.inputs_to_send(inputs, ship_backbone=True) == inputs
    hub = replace(inputs, backbone=replace(inputs.backbone, address="owner/model", digest="abc", files=()))
    assert ray_run.inputs_to_send(hub, ship_backbone=False).backbone.address == "owner/model@abc"


def test_threads_of_a_run_are_the_same_on_every_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    monkeypatch.setattr(openmp, "variables", lambda: {"OMP_WAIT_POLICY": "passive"})
    assert ray_run.variables() == {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": None, "OMP_WAIT_POLICY": "passive"}
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert ray_run.threads() == 3


def test_a_model_behind_an_api_is_asked_by_the_machine_of_the_study(toy: str, tmp_path: Path) -> None:
    executor = RayExecutor()
    executor._local = HereExecutor()  # type: ignore[assignment]
    with chat_server(lambda seen: chat("good")) as server:
        asked = {"method": "endpoint", "url": server.url, "model": "tiny"}
        (run,) = Study(name="s", task=toy, methods={"gpt": asked}).runs()
        run = run.model_copy(update={"send_texts": True})
        assert executor.check(run), "no node is looked at"
        record = executor.carry_out(run, tmp_path, "s", lambda progress: None)
        assert executor.foresee([run]) is None
    assert record.endpoint is not None
    assert record.endpoint.requests == len(server.seen) == record.examples
