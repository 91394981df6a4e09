"""Runs on several devices: processes that compute one run together, on this machine or on hosts of a cluster.

The processes are made up here: threads that do what their script says.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar
from urllib.parse import urlsplit

import pytest

from afina.cluster import nodes
from afina.errors import InvalidStudy, RunFailed
from afina.events import Progress, ValidationScore, ignore
from afina.ranks import ALONE, Ranks
from afina.studies.choosing import eligibility
from afina.studies.executors import (
    local_executor,
    ray_run,
    ray_task,
    rendezvous,
    worker_group,
)
from afina.studies.executors.executor import Cancelled, Executor, Lost, MemoryForecast, Overrun
from afina.studies.executors.local_executor import LocalExecutor
from afina.studies.executors.lost_runs import cause, retry_if_lost
from afina.studies.executors.ray_executor import RayExecutor
from afina.studies.executors.ray_task import checkpoint_name
from afina.studies.executors.rendezvous import Rank
from afina.studies.executors.shared_storage import SharedStorage
from afina.studies.executors.worker import (
    CarryOut,
    Failed,
    Foresee,
    GoOn,
    MemoryForeseen,
    Message,
    Recorded,
    Scored,
    TryOut,
)
from afina.studies.runs.inputs import Input, Located, RunInputs
from afina.studies.runs.run import Run
from hosts import NODES, Places, Task, on_places, without_cluster
from records import carried_out

LOST = Failed(parts=["another process of the run was lost"], code="ranks.lost", fields={})
DAMAGED = Failed(parts=["run lora: row 3: no label"], code="data.damaged", fields={})


class Process:
    """A worker's process as executors use it. `scripts` says what each rank does, for each run that is started.

    A script is "done", "killed", "waits" (until it is killed), "fault", or an error that the process says.
    """

    scripts: ClassVar[list[tuple[str | Failed, ...]]] = []
    requests: ClassVar[list[CarryOut | TryOut]] = []
    threads: ClassVar[set[int | None]] = set()
    sent: ClassVar[list[tuple[int, Message]]] = []
    made: ClassVar[list[Process]] = []
    lock: ClassVar[Any] = threading.Lock()

    def __init__(self, request: Any, until: float | None, threads: int | None, **_: object) -> None:
        rank = getattr(request, "rank", None)
        self.request, self.number = request, rank.number if rank else 0
        self.problem: Failed | None = None
        self.cancelled = False
        self.killed, self.goes_on = threading.Event(), threading.Event()
        self.process = SimpleNamespace(returncode=0, kill=self.killed.set)
        self.threads.add(threads)
        self.made.append(self)

    def __enter__(self) -> Process:
        with self.lock:
            self.requests.append(self.request)
            self.script = self.scripts[0][self.number]
            if len(self.requests) % len(self.scripts[0]) == 0 and len(self.scripts) > 1:
                self.scripts.pop(0)
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def send(self, message: Message) -> None:
        self.sent.append((self.number, message))
        self.goes_on.set()

    def cancel(self, *, at_once: bool) -> None:
        self.cancelled = True
        self.killed.set()
        self.goes_on.set()

    def answers(self, listen: Callable[[Progress], None]) -> Iterator[Message]:
        listen(Progress("train", self.number + 1, 9, 0.5))
        if isinstance(self.script, Failed):
            self.problem, self.process.returncode = self.script, 2
        elif self.script == "done":
            yield from self._result()
        elif self.script == "fault":
            self.process.returncode = 1
        else:
            if self.script == "waits":
                assert self.killed.wait(60)
            self.process.returncode = -9

    def _result(self) -> Iterator[Message]:
        asked = self.request
        if isinstance(asked, TryOut):
            yield Scored(score=SCORE, last=False)
            assert self.goes_on.wait(60)
            if not self.cancelled:
                yield Scored(score=SCORE, last=True)
            return
        run, out = asked.run, Path(asked.out)
        named = {"key": run.key, "study": asked.study, "name": run.title, "seed": run.seed, "task": run.task}
        named["backbone"] = run.backbone
        place = out if self.number == 0 else out / "nowhere"  # rank 0 alone writes where a run writes
        yield Recorded(record=carried_out(place, [0, 1, 0], [0, 1, 1], run.method, run.label, **named))

    def failure(self) -> Exception:
        if self.cancelled:
            return Cancelled()
        if self.problem is not None:
            return RunFailed(self.problem.error, code="run.failed", cause=self.problem.code)
        return RunFailed("", code="run.killed" if self.process.returncode < 0 else "run.fault")


SCORE = ValidationScore(1, 2, 10, 0.5, 0.7)
RUN = Run(backbone="b", task="t", method="lora")


@pytest.fixture(autouse=True)
def _processes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    for name, empty in (("scripts", []), ("requests", []), ("threads", set()), ("sent", []), ("made", [])):
        monkeypatch.setattr(Process, name, empty)
    for module in (local_executor, ray_task):
        monkeypatch.setattr(module, "WorkerProcess", Process)
    grace(monkeypatch, 0.1)
    monkeypatch.setattr(ray_run, "_PAUSE", 0.05)
    without_cluster(monkeypatch, tmp_path / "node")
    monkeypatch.setattr(RunInputs, "materialise", lambda inputs, place, fetch: Located("t", None, "b"))
    yield
    for one in Process.made:  # a process of a task that is gone waits in a thread for nobody
        one.killed.set()


def grace(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Set how long processes have to end by themselves: few seconds for those that wait, many for those that end."""
    for module in (worker_group, ray_run):
        monkeypatch.setattr(module, "GRACE", seconds)


@pytest.fixture
def places() -> Places:
    return Places(devices=2)


@pytest.fixture
def on_ray(places: Places, tmp_path: Path) -> RayExecutor:
    made = RayExecutor(slots=2, devices=2, shard=True, storage=str(tmp_path / "storage"))
    needed = {RUN.key: 2**30}
    made._local.foresee_on = lambda runs, devices, here, shards: MemoryForecast(devices - here, needed)  # type: ignore[method-assign]
    made._inputs_of = lambda work: RunInputs(Input("t", None), None, Input("b", None))  # type: ignore[method-assign]
    return on_places(made, places)


@pytest.fixture(params=["local", "ray"])
def executor(request: pytest.FixtureRequest, on_ray: RayExecutor) -> Executor:
    return on_ray if request.param == "ray" else LocalExecutor(devices=2)


def failed(executor: Executor, out: Path, *scripts: tuple[str | Failed, ...]) -> Exception:
    """The error with which a run ends whose processes do what the scripts say."""
    Process.scripts[:] = scripts
    with pytest.raises(Exception) as caught:  # noqa: PT011 - the test looks at it
        executor.carry_out(RUN, out, "study", ignore)
    return caught.value


def test_each_rank_gets_the_run_and_rank_0_reports_and_writes(executor: Executor, tmp_path: Path) -> None:
    Process.scripts[:] = [("done", "done")]
    heard: list[Progress] = []
    made = executor.carry_out(RUN, tmp_path / "out", "study", heard.append)
    assert [one.step for one in heard if one.phase == "train"] == [1], "rank 1 reports nothing"
    assert made.at_once == 1, "one run was executed, by two processes"
    assert (tmp_path / "out" / made.predictions).is_file()
    found = {one.rank.number: one for one in Process.requests if one.rank}
    assert sorted(found) == [0, 1]
    (first, second) = (found[number].rank for number in (0, 1))
    assert isinstance(first, Rank)
    assert second == first.model_copy(update={"number": 1, "local": second.local})
    assert first.count == 2
    assert first.address.startswith("tcp://10.0.0.1:" if isinstance(executor, RayExecutor) else "file:///")
    assert (first.local, second.local) == ((0, 0) if isinstance(executor, RayExecutor) else (0, 1)), "GPUs"
    assert first.shards == isinstance(executor, RayExecutor), "as the executor was asked"


def test_a_trial_goes_on_on_all_ranks_and_ends_on_all(executor: Executor, on_ray: RayExecutor) -> None:
    Process.scripts[:] = [("done", "done"), ("done", "waits")]
    goes_on = lambda score: True  # noqa: E731
    assert executor.try_out(RUN, (0.5, 1.0), None, goes_on, ignore) == SCORE
    assert {number for number, message in Process.sent if isinstance(message, GoOn)} == {0, 1}
    assert executor.try_out(RUN, (0.5, 1.0), None, lambda score: False, ignore) == SCORE, "rank 1 is ended"
    assert on_ray._runs == set()


def test_a_killed_rank_ends_the_run_also_while_rank_0_computes_alone(executor: Executor, tmp_path: Path) -> None:
    for first in ("waits", LOST, "fault"):  # rank 0 notices nothing, or notices, or falls over it
        error = failed(executor, tmp_path / "out", (first, "killed"))
        if isinstance(executor, RayExecutor):
            assert isinstance(error, Lost)
            assert "signal 9 killed its process on node host (10.0.0.2, bbbbbbbb)" in str(error)
        else:
            assert isinstance(error, RunFailed)
            assert error.code == "run.killed"


def test_an_error_of_any_rank_comes_before_the_loss_of_the_others(
    executor: Executor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for scripts in ((LOST, DAMAGED), ("waits", DAMAGED), (DAMAGED, LOST), (DAMAGED, "waits"), ("fault", DAMAGED)):
        grace(monkeypatch, 0.1 if "waits" in scripts else 60.0)
        error = failed(executor, tmp_path / "out", scripts)
        assert isinstance(error, RunFailed)
        assert error.fields["cause"] == "data.damaged", scripts


def test_ranks_that_lost_each_other_are_a_lost_run_that_is_tried_again(executor: Executor, tmp_path: Path) -> None:
    error = failed(executor, tmp_path / "out", (LOST, LOST))
    assert isinstance(error, Lost)
    assert not error.of_node
    Process.scripts[:] = [(LOST, "waits"), ("done", "done")]
    said: list[str] = []
    work = lambda: executor.carry_out(RUN, tmp_path / "out", "study", ignore)  # noqa: E731
    assert retry_if_lost(RUN, work, said.append).predictions
    assert said == [
        "lora, seed 0: the process of this run was lost (its processes lost each other). The run is tried again."
    ]


def test_a_rank_0_that_has_a_result_has_executed_the_run(
    executor: Executor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for other, seconds in ((LOST, 60.0), ("waits", 0.1), ("killed", 60.0)):
        grace(monkeypatch, seconds)
        Process.scripts[:] = [("done", other)]
        assert executor.carry_out(RUN, tmp_path / "out", "study", ignore).predictions


def test_cancelled_runs_end_on_all_ranks(executor: Executor, tmp_path: Path) -> None:
    def cancel(progress: Progress) -> None:
        if progress.phase == "train":
            executor.cancel()

    Process.scripts[:] = [("waits", "waits")]
    with pytest.raises(Cancelled):
        executor.carry_out(RUN, tmp_path / "out", "study", cancel)


def test_a_dead_node_of_any_rank_is_a_lost_machine(
    on_ray: RayExecutor, tmp_path: Path, places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(progress: Progress) -> None:
        if progress.phase == "train":
            monkeypatch.setattr(nodes, "living", lambda: NODES[:1])
            Task.die(places.tasks[1])

    Process.scripts[:] = [("waits", "waits")]
    with pytest.raises(Lost) as caught:
        on_ray.carry_out(RUN, tmp_path / "out", "study", die)
    assert caught.value.of_node
    monkeypatch.setattr(nodes, "on_each", lambda *_: {})
    with pytest.raises(Lost):
        on_ray.carry_out(RUN, tmp_path / "out", "study", ignore)


def test_only_the_task_of_rank_0_has_the_checkpoint(
    on_ray: RayExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, read = on_ray._shared_storage(), list[str]()
    get_file = SharedStorage.get

    def noting(self: SharedStorage, name: str, path: Path) -> bool:
        read.append(name)
        return get_file(self, name, path)

    monkeypatch.setattr(SharedStorage, "get", noting)
    (tmp_path / "kept").write_bytes(b"a checkpoint")
    storage.put(checkpoint_name(RUN), tmp_path / "kept")
    failed(on_ray, tmp_path / "out", ("killed", "killed"))
    assert read == [checkpoint_name(RUN)]
    assert storage.has(checkpoint_name(RUN))


def test_processes_share_the_processors_and_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_executor.meter, "processors", lambda: 8)
    asked: list[Foresee] = []

    def answers(self: Process, listen: object) -> Iterator[Message]:
        asked.append(self.request)
        yield MemoryForeseen(available=9, needed={RUN.key: 3})

    monkeypatch.setattr(Process, "answers", answers)
    Process.scripts[:] = [("done",)]
    LocalExecutor(2, devices=2, shard=True).foresee([RUN])
    assert (Process.threads, [(one.devices, one.here, one.shards) for one in asked]) == ({2}, [(2, 2, True)])
    with pytest.raises(InvalidStudy) as caught:
        LocalExecutor(shard=True)
    assert caught.value.code == "option.inapplicable"


def test_an_endpoint_is_asked_by_one_process(tmp_path: Path) -> None:
    asking = Run(task="t", method="endpoint", hyperparameters={"url": "http://127.0.0.1:1/v1", "model": "m"})
    with LocalExecutor(devices=2)._requests(CarryOut(run=asking, out="o", study="s")) as (request,):
        assert request.rank is None


def test_what_is_chosen_fits_into_the_share_of_each_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eligibility.meter, "memory_available", lambda: 100)
    monkeypatch.setattr(eligibility.meter, "machine_memory", lambda: 1000)
    for devices, size in ((1, 100), (2, 50)):
        setting: Any = SimpleNamespace(executor=LocalExecutor(devices=devices))
        assert eligibility._limit(setting, None).size == size
        assert eligibility._limit(setting, 70).size == 70, "as the user says, of each"


def test_a_sharded_run_computes_its_products_in_float(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_executor.settings, "usual_products", lambda: "int8")
    found = [LocalExecutor(devices=2, shard=shard).usual_products() for shard in (False, True)]
    assert found == ["int8", "float"]


# How workers meet


def test_workers_on_this_machine_meet_in_a_file_of_their_run_and_open_no_port() -> None:
    executor, request = LocalExecutor(devices=2, shard=True), CarryOut(run=RUN, out="o", study="s")
    with executor._requests(request) as one, executor._requests(request) as other:
        ranks = [asked.rank for asked in one]
        assert [(rank.number, rank.count, rank.local, rank.shards) for rank in ranks] == [
            (0, 2, 0, True),
            (1, 2, 1, True),
        ]
        addresses = {asked.rank.address for asked in (*one, *other)}
        assert len(addresses) == 2, "one for each run"
        directories = [Path(urlsplit(address).path).parent for address in addresses]
        assert all(directory.stat().st_mode & 0o077 == 0 for directory in directories)
    assert not any(directory.exists() for directory in directories)


def joining(monkeypatch: pytest.MonkeyPatch, tokens: list[str]) -> Rank:
    class Met(Ranks):
        def gather(self, value: Any) -> list[Any]:
            return tokens

    joined = lambda rank, count, address, *, local, shards: Met(rank, count, shards)  # noqa: E731
    monkeypatch.setattr(Ranks, "joined", joined)
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "mine")
    _, second = rendezvous.ranks_here("/tmp", 2, shards=True)
    return second.model_copy(update={"token": "a"})


def test_workers_of_one_run_meet_and_those_of_two_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    assert rendezvous.join(None) is ALONE
    second = joining(monkeypatch, ["a", "a"])
    found = rendezvous.join(second)
    assert (found.rank, found.count, found.shards) == (1, 2, True)
    joining(monkeypatch, ["b", "a"])
    with pytest.raises(RunFailed) as caught:
        rendezvous.join(second)
    assert caught.value.code == "ranks.lost", "the run is tried again"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks Linux")
def test_the_interface_is_that_which_leads_to_rank_0() -> None:
    assert rendezvous.interface("127.0.0.1") == "lo"
    assert rendezvous.interface("::1") is None, "gloo chooses"


def test_the_address_of_a_machine_may_be_ipv6() -> None:
    (first,) = rendezvous.ranks_on_nodes("fd00::1", 1234, 1, shards=False)
    assert first.address == "tcp://[fd00::1]:1234"


# Which error is the cause


def of_run(code: str, cause: str | None = None) -> RunFailed:
    return RunFailed("", code=code, **({"cause": cause} if cause else {}))


@pytest.mark.parametrize(
    "order",
    [
        [Overrun(), Lost(of_node=True), Lost(), of_run("run.failed", "data.damaged"), of_run("run.fault")],
        [of_run("run.killed"), of_run("run.failed", "data.damaged"), of_run("run.failed", "ranks.lost")],
        [of_run("run.fault"), of_run("run.failed", "ranks.lost")],
    ],
)
def test_the_most_likely_cause_comes_first(order: list[Exception]) -> None:
    for first in range(len(order)):
        assert cause(order[first:][::-1]) is order[first] or first == len(order) - 1
    assert isinstance(cause([of_run("run.failed", "ranks.lost")]), Lost)
