"""Executors: several runs at once, files that come back, machines that are lost. No executor changes a digest."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from afina import Backbone, Study, meter
from afina.errors import RunFailed
from afina.events import Listener, Progress
from afina.models.backbone_spec import files_digest
from afina.report.progress import Lines
from afina.studies import schedule
from afina.studies.executors import fork_server
from afina.studies.executors.executor import Cancelled, Lost, MemoryForecast
from afina.studies.executors.local_executor import LocalExecutor
from afina.studies.executors.lost_runs import NODES, TRIES, retry_if_lost
from afina.studies.planning.forecast_runs import forecast_run
from afina.studies.results import Results
from afina.studies.runs import record
from afina.studies.runs.output_directory import SCRATCH, OutputDirectory
from afina.studies.runs.record import Record
from afina.studies.runs.run import Run
from afina.studies.schedule import Slots
from afina.studies.watcher import Watcher
from command import PROGRAM, HereExecutor, InventedExecutor, left_behind, study_file
from scribe import Scribe
from workers import PATIENCE, assert_ended, checkpoints_below, until, workers

METHODS = ("baseline", "full", "lora", "ia3", "prelayer")


def five(**changes: Any) -> Study:
    content = {"name": "five", "backbone": "gpt2", "task": "sst2", "methods": {name: {} for name in METHODS}}
    return Study.parse(content | changes, "five")


class Held(InventedExecutor):
    """Carries out as many at once as it has slots. Runs end in the order of `order`, the others as they began."""

    def __init__(self, slots: int, order: Sequence[str] = METHODS) -> None:
        super().__init__()
        self.slots, self.order = slots, list(order)
        self.ended: list[str] = []
        self.under_way: set[str] = set()
        self.together: list[set[str]] = []
        self.changed = threading.Condition()
        self.cancelled = False

    def carry_out(self, run: Run, out: Path, study: str, listen: Listener, until: float | None = None) -> Record:
        with self.changed:
            self.under_way.add(run.title)
            self.together.append({*self.under_way})
            self.changed.notify_all()
        listen(Progress("train"))
        with self.changed:
            turn = self.changed.wait_for(lambda: self.cancelled or self._is_next(run.title), PATIENCE)
            assert turn
            self.under_way.remove(run.title)
            self.ended.append(run.title)
            self.changed.notify_all()
            if self.cancelled:
                raise Cancelled
        return super().carry_out(run, out, study, listen, until)

    def _is_next(self, title: str) -> bool:
        """Whether all that are to end before it have ended, where as many as can be are under way."""
        left = [name for name in self.order if name not in self.ended]
        full = len(self.under_way) == min(self.slots, len(left))
        return full and next(name for name in left if name in self.under_way) == title

    def cancel(self, *, at_once: bool = False) -> None:
        with self.changed:
            self.cancelled = True
            self.changed.notify_all()


# Several at once


@pytest.mark.parametrize(("slots", "order"), [(1, METHODS), (2, METHODS[::-1]), (9, METHODS), (9, METHODS[::-1])])
def test_results_and_records_stand_in_the_studys_order(tmp_path: Path, slots: int, order: tuple[str, ...]) -> None:
    executor, scribe = Held(slots, order), Scribe()
    results = five().run(tmp_path, scribe, executor=executor)
    assert max(map(len, executor.together)) == min(slots, len(METHODS))
    assert tuple(one.name for one in results.records) == METHODS
    assert tuple(one.name for one in record.read_records(tmp_path / "records.jsonl")) == METHODS
    assert Results.read(tmp_path) == results
    if slots == 9:
        assert tuple(executor.ended) == order, "nothing ended out of order, so this test shows nothing"
    assert [line for line in scribe.told if line.startswith("started")] == [
        f"started {name} {number}/5" for number, name in enumerate(METHODS, start=1)
    ]
    assert [one.phase for one in scribe.heard] == ["train"] * len(METHODS)
    assert scribe.threads == {threading.current_thread()}, "all is told in the thread that asked"


def test_a_run_that_fails_beside_others_is_told_and_the_others_go_on(tmp_path: Path) -> None:
    executor = Held(2)
    executor.failing = {"full", "ia3"}
    results = five().run(tmp_path, executor=executor)
    assert [one.name for one in results.failed] == ["full", "ia3"]
    assert [one.name for one in results.records] == ["baseline", "lora", "prelayer"]
    assert results.waiting == 0


def test_one_run_under_two_names_is_carried_out_once(tmp_path: Path) -> None:
    executor = Needing(2, {"one": 1, "two": 1, "full": 1})
    executor.order = ["one", "two", "full"]
    methods = {"one": {"method": "lora"}, "two": {"method": "lora"}, "full": {}}
    five(methods=methods).run(tmp_path, executor=executor)
    assert executor.ended == ["one", "full"]


def test_what_ends_the_waiting_cancels_what_is_under_way(tmp_path: Path) -> None:
    class Impatient(Watcher):
        def started(self, run: Run, number: int, total: int) -> None:
            if number == 3:
                raise KeyboardInterrupt

    executor = Held(3)
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        five().run(tmp_path, Impatient(), executor=executor)
    assert executor.cancelled
    assert executor.under_way == set()
    assert threading.active_count() == before
    assert left_behind(tmp_path) == set()


def test_a_second_ctrl_c_waits_for_no_checkpoint() -> None:
    class Stubborn(InventedExecutor):
        slots = 2

        def __init__(self) -> None:
            super().__init__()
            self.asked: list[bool] = []
            self.done = threading.Event()

        def cancel(self, *, at_once: bool = False) -> None:
            self.asked.append(at_once)
            if at_once:
                self.done.set()
            elif len(self.asked) == 2:
                raise KeyboardInterrupt  # while it waits for the first to have an effect

    def interrupted() -> None:
        with Slots[str, bool](executor) as slots:
            slots.start("one", lambda tell: executor.done.wait(PATIENCE))
            raise KeyboardInterrupt

    executor = Stubborn()
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert executor.asked == [False, False, True]


class Changing(InventedExecutor):
    """Has `before` slots until all are in use, and then `after`. No run ends until `enough` are in use."""

    def __init__(self, before: int, after: int, enough: int) -> None:
        super().__init__()
        self.slots, self.before, self.after, self.enough = before, before, after, enough
        self.beside: list[int] = []
        self.under_way = 0
        self.changed = threading.Condition()
        self.opened = False

    def carry_out(self, run: Run, out: Path, study: str, listen: Listener, until: float | None = None) -> Record:
        with self.changed:
            self.under_way += 1
            self.beside.append(self.under_way)
            if self.under_way == self.before:
                threading.Timer(0.1, self._change).start()
            assert self.changed.wait_for(self._is_open, PATIENCE)
            self.under_way -= 1
        return super().carry_out(run, out, study, listen, until)

    def _change(self) -> None:
        with self.changed:
            self.slots = self.after
            self.changed.notify_all()

    def _is_open(self) -> bool:
        self.opened |= self.slots == self.after and self.under_way >= self.enough
        if self.opened:
            self.changed.notify_all()
        return self.opened


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "_PATIENCE", 0.01)


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize(
    ("before", "after", "enough", "beside"), [(2, 5, 5, [1, 2, 3, 4, 5]), (4, 1, 4, [1, 2, 3, 4, 1])]
)
def test_slots_that_join_are_used_at_once_and_those_that_leave_not_again(
    tmp_path: Path, before: int, after: int, enough: int, beside: list[int]
) -> None:
    executor = Changing(before, after, enough)
    results = five().run(tmp_path, executor=executor)
    assert tuple(one.name for one in results.records) == METHODS
    assert executor.beside == beside


# Memory


class Needing(Held):
    """Runs need gibibytes, as the test says, of ten."""

    def __init__(self, slots: int, needed: dict[str, int]) -> None:
        super().__init__(slots)
        self.needed, self.asked = needed, 0

    def foresee(self, runs: Sequence[Run]) -> MemoryForecast:
        self.asked += 1
        return MemoryForecast(10, {run.key: self.needed[run.title] for run in runs})

    def _is_next(self, title: str) -> bool:
        first = next(name for name in self.order if name in self.under_way)
        return title == first and (self.slots == 1 or title != "baseline" or "full" in self.under_way)


def test_a_run_starts_where_its_memory_fits_beside_the_others(tmp_path: Path) -> None:
    needed = {"baseline": 4, "full": 6, "lora": 5, "ia3": 11, "prelayer": 6}
    executor, scribe = Needing(3, needed), Scribe()
    results = five().run(tmp_path, scribe, executor=executor)
    assert len(results.records) == 5
    for together in executor.together:
        assert len(together) == 1 or sum(needed[name] for name in together) <= 10, together
    assert {"baseline", "full"} in executor.together, "nothing went on at once, so this test shows nothing"
    assert {"ia3"} in executor.together
    waits = [line.partition(" of ") for line in scribe.told if line.startswith("waits")]
    assert [line for line, _, _ in waits] == ["waits lora: 5", "waits ia3: 11", "waits prelayer: 6"], "once each"
    assert [left for _, _, left in waits[::2]] == ["0", "0"]


def test_with_one_slot_nothing_is_foreseen(tmp_path: Path) -> None:
    executor = Needing(1, dict.fromkeys(METHODS, 100))
    five().run(tmp_path, executor=executor)
    assert executor.asked == 0


def test_a_run_that_waits_is_told_in_a_line() -> None:
    said: list[str] = []
    Lines(said.append).waits(Run(backbone="b", task="t", method="lora"), 3 * 2**30, 2**29)
    assert said == ["lora, seed 0: waits for memory: needs 3.00 GiB, beside the others are 0.50 GiB"]


# Machines that are lost


class Losing(HereExecutor):
    """Loses the machine of a run after some of its steps, as often as it is told to; its checkpoint came back."""

    def __init__(self, times: int, after: int = 2) -> None:
        super().__init__()
        self.left, self.after = times, after
        self.steps: list[int] = []

    def carry_out(self, run: Run, out: Path, study: str, listen: Listener, until: float | None = None) -> Record:
        loses, taken = self.left > 0, 0
        self.left -= 1

        def hear(progress: Progress) -> None:
            nonlocal taken
            if progress.phase == "train" and progress.step:
                self.steps.append(progress.step)
                taken += 1
            if loses and taken > self.after:
                raise Lost("the node went away")

        return super().carry_out(run, out, study, hear, until)


def small(gpt2: Backbone, toy: str, *methods: str, **train: Any) -> Study:
    content = {
        "name": "small",
        "backbone": gpt2.address,
        "task": toy,
        "train": {"max_steps": 6, "batch_size": 4, "dtype": "float32", "checkpoint_seconds": 0, **train},
        "methods": {method: {} for method in methods},
    }
    return Study.parse(content, "small")


@pytest.mark.slow
def test_a_run_that_loses_its_machine_goes_on_to_the_same_digest(gpt2: Backbone, toy: str, tmp_path: Path) -> None:
    (reference,) = small(gpt2, toy, "lora").run(tmp_path / "kept", executor=HereExecutor()).records
    losing, scribe = Losing(TRIES - 1), Scribe()
    (found,) = small(gpt2, toy, "lora").run(tmp_path / "lost", scribe, executor=losing).records
    assert (found.digest, found.losses) == (reference.digest, reference.losses)
    assert len(losing.steps) > 6, "nothing was lost, so this test shows nothing"
    assert losing.steps.count(1) == 1, "it began anew"
    told = "lora, seed 0: the process of this run was lost (the node went away). The run is tried again."
    assert [line for line in scribe.told if "lost" in line] == [told] * (TRIES - 1)


def test_the_loss_of_a_machine_is_not_a_fault_of_the_run_until_it_is_the_twentieth() -> None:
    tries, said = [0], []
    run = Run(backbone="b", task="t", method="lora")

    def lost() -> None:
        tries[0] += 1
        if tries[0] % 4 == 1:
            raise Lost("signal 9")
        raise Lost("node 10.0.0.7 died", of_node=True)

    with pytest.raises(RunFailed, match=r"run lora: the process of this run was lost \(signal 9\), 3 times in all"):
        retry_if_lost(run, lost, said.append)
    assert tries == [9]
    assert said[:2] == [
        "lora, seed 0: the process of this run was lost (signal 9). The run is tried again.",
        "lora, seed 0: the machine of this run was lost (node 10.0.0.7 died). The run is tried again.",
    ]

    def gone() -> None:
        tries[0] += 1
        raise Lost("node 10.0.0.7 died", of_node=True)

    tries[0] = 0
    with pytest.raises(RunFailed, match=r"run lora: the machine of this run was lost .*, 20 times in all"):
        retry_if_lost(run, gone, said.append)
    assert tries == [NODES]


@pytest.mark.slow
def test_a_run_that_loses_every_machine_keeps_its_checkpoint(gpt2: Backbone, toy: str, tmp_path: Path) -> None:
    losing, scribe = Losing(TRIES, 1), Scribe()
    results = small(gpt2, toy, "lora").run(tmp_path, executor=losing)
    (failure,) = results.failed
    assert failure.error == (
        f"run lora: the process of this run was lost (the node went away), {TRIES} times in all. Start again; the run "
        "continues from its last checkpoint."
    )
    assert losing.steps == [1, 2, 2, 3, 3, 4]
    results = small(gpt2, toy, "lora").run(tmp_path, scribe, executor=HereExecutor())
    assert len(results.records) == 1
    assert scribe.steps == [4, 5, 6]


# With real workers


def in_a_file(place: Path, gpt2: Backbone, toy: str, steps: int = 400) -> Path:
    """A study of three methods, two of which train for some seconds."""
    train = {"max_steps": steps, "batch_size": 4, "dtype": "float32", "checkpoint_seconds": 0}
    methods: dict[str, Any] = {"full": {}, "lora": {}, "baseline": {}}
    return study_file(
        place / "study.toml", name="several", backbone=gpt2.address, task=toy, train=train, methods=methods
    )


@pytest.fixture(scope="module")
def several(gpt2: Backbone, toy: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The study, and the digests that its runs end in one after the other, in this process."""
    place = tmp_path_factory.mktemp("several")
    source = in_a_file(place, gpt2, toy)
    done = Study.load(str(source)).run(place / "alone", executor=HereExecutor())
    return source, {one.name: one.digest for one in done.records}


def checkpoints(out: Path) -> set[str]:
    """Methods whose runs have a checkpoint."""
    return {path.name.partition("-")[0] for path in checkpoints_below(out)}


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_ended_with_two_under_way_both_go_on_from_their_checkpoints_to_the_same_digests(
    several: tuple[Path, dict[str, str]], tmp_path: Path, sent: signal.Signals
) -> None:
    source, digests = several
    command = [*PROGRAM, "study", str(source), "--out", str(tmp_path), "--jobs", "2"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        until(lambda: checkpoints(tmp_path) >= {"full", "lora"}, process)
        running = workers(process)
        assert len(running) == 2
        process.send_signal(sent)
        _, err = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
        process.communicate()
    assert_ended(running, seconds=5.0)
    assert process.returncode == {signal.SIGINT: 130, signal.SIGKILL: -9}[sent]
    if sent == signal.SIGINT:
        assert "Interrupted. To continue from the last checkpoint: afina study" in err
        assert {path.parent for path in tmp_path.rglob("*.safetensors") if "checkpoints" in path.parts} == {
            tmp_path / "checkpoints"
        }
    assert "Traceback" not in err
    assert checkpoints(tmp_path) >= {"full", "lora"}
    assert not any("full" in line or "lora" in line for line in recorded(tmp_path))

    if sent == signal.SIGINT:  # in this process: that the command goes on too, the other case shows
        noting = Losing(0)
        results = Study.load(str(source)).run(tmp_path, executor=noting)
        assert {one.name: one.digest for one in results.records} == digests
        assert 1 not in noting.steps, "a run began anew"
    else:
        done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
        assert {one["name"]: one["digest"] for one in json.loads(done.stdout)["records"]} == digests
        assert "[2/3] lora, seed 0: train" in done.stderr
    assert not list(tmp_path.rglob("checkpoints/*"))
    assert not (tmp_path / SCRATCH).exists()


def recorded(out: Path) -> list[str]:
    """Names of the runs that have a record."""
    return [one.name for one in record.read_records(out / "records.jsonl")]


def test_workers_share_the_processors_unless_threads_are_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started: list[dict[str, str]] = []

    def popen(*_: Any, env: dict[str, str], **__: Any) -> Any:
        started.append(env)
        raise FileNotFoundError  # that is all that this test wants to know

    monkeypatch.setattr(fork_server, "_FORKS", False)
    monkeypatch.setattr(subprocess, "Popen", popen)
    monkeypatch.setattr(meter, "processors", lambda: 5)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    run = Run(backbone="b", task="t", method="lora")
    for slots in (1, 2, 9):
        with pytest.raises(FileNotFoundError):
            LocalExecutor(slots).carry_out(run, Path("out"), "study", lambda progress: None)
    assert [env.get("OMP_NUM_THREADS") for env in started] == [None, "2", "1"]
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    with pytest.raises(FileNotFoundError):
        LocalExecutor(2).carry_out(run, Path("out"), "study", lambda progress: None)
    assert started[-1]["OMP_NUM_THREADS"] == "3"


@pytest.mark.slow
def test_memory_is_foreseen_as_plan_foresees_it(gpt2: Backbone, toy: str) -> None:
    runs = (
        small(gpt2, toy, "full", "lora").runs()
        + small(gpt2, toy, "full", "lora").model_copy(update={"seeds": (1,)}).runs()
    )
    found = LocalExecutor(2).foresee(runs)
    assert found is not None
    assert found.needed.keys() == {run.key for run in runs}
    full, lora, *again = [found.needed[run.key] for run in runs]
    assert again == [full, lora]
    expected = forecast_run(runs[0], calibrate=False)
    assert abs(full - expected.peak) < 0.2 * expected.peak
    assert found.available > 0


# What comes back


@pytest.mark.slow
def test_a_checkpoint_where_results_are_is_gone_on_from(gpt2: Backbone, toy: str, tmp_path: Path) -> None:
    """No scratch is there."""
    (run,) = small(gpt2, toy, "lora").runs()
    run = run.with_digests(data_digest=LocalExecutor().look(run).data_digest)  # type: ignore[union-attr]
    run = run.with_digests(backbone_files=files_digest(run.backbone))

    def interrupt(progress: Progress) -> None:
        if (progress.phase, progress.step) == ("train", 4):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.execute(tmp_path, listen=interrupt)
    assert OutputDirectory(tmp_path).checkpoint(run.label).is_file()
    noting = Losing(0)
    (found,) = small(gpt2, toy, "lora").run(tmp_path, executor=noting).records
    assert noting.steps[0] > 1, "it began anew"
    (reference,) = small(gpt2, toy, "lora").run(tmp_path / "anew", executor=HereExecutor()).records
    assert found.digest == reference.digest


def test_what_comes_back_is_taken_in_across_file_systems(tmp_path: Path) -> None:
    """As where `adapters` is a link to a larger disk."""
    elsewhere = Path(tempfile.mkdtemp(dir="/dev/shm"))
    try:
        if elsewhere.stat().st_dev == tmp_path.stat().st_dev:
            pytest.skip("there is one file system alone")
        (tmp_path / "adapters").symlink_to(elsewhere)
        results = five().run(tmp_path, executor=InventedExecutor())
        assert len(results.records) == len(list(elsewhere.iterdir())) == 5
        assert Results.read(tmp_path) == results
        assert not (tmp_path / SCRATCH).exists()
    finally:
        shutil.rmtree(elsewhere)


def test_an_executor_finds_no_file_of_the_results_in_its_scratch(tmp_path: Path) -> None:
    class Looking(InventedExecutor):
        def carry_out(self, run: Run, out: Path, *rest: Any) -> Record:
            assert list(out.iterdir()) == []
            assert out != tmp_path
            return super().carry_out(run, out, *rest)

    five().run(tmp_path, executor=Looking())
    assert not (tmp_path / SCRATCH).exists()
