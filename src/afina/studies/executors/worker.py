"""The worker: a process that executes one request, such as a run; a `WorkerProcess` starts the worker.

Messages to and from the worker are lines of JSON. The worker reads one request from standard input: CarryOut, TryOut,
Foresee or TimeAnswers. The worker writes Progressed messages to standard output, and Failed for an error that the user
can correct. A worker ends at once when its standard input is closed, so that no run continues after its caller has
ended. A Stop message ends the worker after a checkpoint.
"""

from __future__ import annotations

import math
import os
import queue
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal, Self, TextIO

from pydantic import ConfigDict, Field, JsonValue, TypeAdapter

from afina import allocator, file_io, meter, openmp
from afina.errors import AfinaError, RunFailed
from afina.events import Progress, ValidationScore, downloads_told
from afina.schema import Frozen
from afina.sentence import Sentence
from afina.studies.executors import problems, rendezvous
from afina.studies.executors.rendezvous import Rank
from afina.studies.runs.inputs import Located
from afina.studies.runs.record import Record
from afina.studies.runs.run import Run


class _Message(Frozen):
    model_config = ConfigDict(ser_json_inf_nan="constants")  # a loss may be NaN


class CarryOut(_Message):
    """A request to execute `run` and write its files into `out`; the reply is Recorded or Failed.

    `located` are paths on the worker's machine, instead of the addresses in `run`. None as `rank`: alone.
    """

    kind: Literal["carry out"] = "carry out"
    run: Run
    out: str
    study: str
    located: Located | None = None
    rank: Rank | None = None


class TryOut(_Message):
    """A request to execute a tuning trial. After each Scored except the last, the worker waits for GoOn."""

    kind: Literal["try out"] = "try out"
    run: Run
    shares: tuple[float, ...]
    limit: int | None
    located: Located | None = None
    rank: Rank | None = None


class Foresee(_Message):
    """A request to forecast the memory of runs, of whose `devices` processes `here` are on one machine."""

    kind: Literal["foresee"] = "foresee"
    runs: tuple[Run, ...]
    devices: int = 1
    here: int = 1
    shards: bool = False


class TimeAnswers(_Message):
    """A request to time predictions of the untrained model for at most `texts` single texts; the reply is AnswersTimed.

    `bare`: the frozen model without the weights that the method adds.
    """

    kind: Literal["time answers"] = "time answers"
    run: Run
    texts: int
    bare: bool


class GoOn(_Message):
    """A message to a worker that executes a tuning trial: train until the next score."""

    kind: Literal["go on"] = "go on"


class Stop(_Message):
    """A message to a worker: end; a run that trains writes a checkpoint before it ends."""

    kind: Literal["stop"] = "stop"


class Progressed(_Message):
    """A message from a worker with a progress event of its run."""

    kind: Literal["progress"] = "progress"
    progress: Progress


class Scored(_Message):
    """A message from a worker with the score of a tuning trial on the validation split."""

    kind: Literal["score"] = "score"
    score: ValidationScore
    last: bool


class Recorded(_Message):
    """A message from a worker with the record of the finished run."""

    kind: Literal["record"] = "record"
    record: Record


class MemoryForeseen(_Message):
    """The bytes that are available, and that each run needs by its key; runs that cannot be forecast are left out."""

    kind: Literal["foreseen"] = "foreseen"
    available: int
    needed: dict[str, int]


class AnswersTimed(_Message):
    """The seconds of each timed prediction."""

    kind: Literal["answers timed"] = "answers timed"
    seconds: tuple[float, ...]


class Failed(_Message):
    """An error that the user can correct."""

    kind: Literal["error"] = "error"
    parts: list[JsonValue]
    code: str
    fields: dict[str, JsonValue]

    @classmethod
    def of(cls, error: AfinaError) -> Self:
        return cls(parts=error.sentence.as_json(), code=error.code, fields=error.fields)  # type: ignore[arg-type]

    @property
    def error(self) -> Sentence:
        return Sentence.from_json(self.parts)  # type: ignore[arg-type]

    def of_run(self, title: str) -> RunFailed:
        return problems.RUN_FAILED(_message=self.error, run=title, cause=self.code, of_cause=self.fields)


Request = CarryOut | TryOut | Foresee | TimeAnswers
"""A request to a worker; a worker reads one request from its standard input and executes it."""

Message = Request | GoOn | Stop | Progressed | Scored | Recorded | MemoryForeseen | AnswersTimed | Failed

_ANY: TypeAdapter[Message] = TypeAdapter(Annotated[Message, Field(discriminator="kind")])


def is_result(message: Message) -> bool:
    return isinstance(message, Recorded) or (isinstance(message, Scored) and message.last)


def encode(message: Message) -> str:
    return message.model_dump_json() + "\n"


def decode(line: str | bytes) -> Message:
    return _ANY.validate_json(line)


_PAUSE = 0.2
"""The least number of seconds between two progress messages of one phase of a run."""


INTERRUPTED = 130
"""The exit status of a worker that was ended by a Stop message."""


def _received() -> Iterator[Message]:
    # Not sys.stdin: a thread that waits in its buffer makes the interpreter abort at shutdown, and a buffer keeps a
    # Stop that arrived together with the request.
    rest = b""
    while part := os.read(0, 1 << 16):
        *lines, rest = (rest + part).split(b"\n")
        yield from map(decode, lines)


def _hear(messages: Iterator[Message], replies: queue.SimpleQueue[Message], reporter: _Reporter) -> None:
    for message in messages:
        if isinstance(message, Stop):
            reporter.stop()
        else:
            replies.put(message)
    os._exit(1)


class _Reporter:
    """An object that writes the run's progress to standard output, and stops the run after a Stop message."""

    def __init__(self, stream: TextIO) -> None:
        self.stream, self.phase, self.last = stream, "", 0.0
        self.keeps, self.stopped = False, threading.Event()

    def stop(self) -> None:
        """End the process: after the current step and a checkpoint if the run is training, otherwise at once."""
        self.stopped.set()
        if not (self.keeps and self.phase == "train"):
            os._exit(INTERRUPTED)

    def send(self, message: Message) -> None:
        try:
            self.stream.write(encode(message))
            self.stream.flush()
        except BrokenPipeError:
            os._exit(1)  # the study has ended

    def progress(self, progress: Progress) -> None:
        if progress.phase != self.phase or progress.step == progress.steps or meter.now() - self.last >= _PAUSE:
            self.phase, self.last = progress.phase, meter.now()
            if self.stopped.is_set() and progress.phase != "train":  # Stop came during the last step
                os._exit(INTERRUPTED)
            self.send(Progressed(progress=progress))


def _carry_out(request: CarryOut, reporter: _Reporter) -> None:
    from afina.studies.runs.execute import execute

    reporter.keeps = True
    ranks = rendezvous.join(request.rank)
    made = execute(
        request.run,
        Path(request.out),
        study=request.study,
        listen=reporter.progress,
        stopped=reporter.stopped.is_set,
        located=request.located,
        ranks=ranks,
    )
    reporter.send(Recorded(record=made))
    ranks.close()


def _try_out(request: TryOut, reporter: _Reporter, replies: queue.SimpleQueue[Message]) -> None:
    from afina.studies.runs.execute import try_out

    last = request.limit or math.inf
    run, shares, limit = request.run, request.shares, request.limit
    ranks = rendezvous.join(request.rank)
    for score in try_out(run, shares, limit=limit, listen=reporter.progress, located=request.located, ranks=ranks):
        ends = score.step >= min(last, score.steps) or score.value is None
        reporter.send(Scored(score=score, last=ends))
        if not ends:
            # On this machine, the executor answers after the pruner has decided, so that a candidate which is stopped
            # has taken no step after its last score; on a node of a Ray cluster, the task answers at once.
            replies.get()


def _foresee(request: Foresee, reporter: _Reporter) -> None:
    from afina import device
    from afina.studies.planning.forecast_runs import forecast_run

    gpu = meter.gpu_memory(device.choose())
    needed: dict[str, int] = {}
    for run in request.runs:
        if run.asks_endpoint:  # it needs little memory
            continue
        with suppress(AfinaError):  # the run raises the same error when it is executed
            seen = forecast_run(run, calibrate=False, devices=request.devices, sharded=request.shards)
            needed[run.key] = seen.peak * request.here if gpu is None else seen.gpu_peak
    reporter.send(MemoryForeseen(available=meter.memory_available() if gpu is None else gpu, needed=needed))


def _time_answers(request: TimeAnswers, reporter: _Reporter) -> None:
    from afina.studies.runs.prepared import answer_seconds

    seconds = answer_seconds(request.run, request.texts, bare=request.bare)
    reporter.send(AnswersTimed(seconds=tuple(seconds)))


def _work_on(request: Request, reporter: _Reporter, replies: queue.SimpleQueue[Message]) -> None:
    if isinstance(request, TryOut):
        _try_out(request, reporter, replies)
    elif isinstance(request, Foresee):
        _foresee(request, reporter)
    elif isinstance(request, TimeAnswers):
        _time_answers(request, reporter)
    else:
        _carry_out(request, reporter)


def main() -> int:
    """Execute the request, and return 0, 2 after an error of the user, 130 after Ctrl-C, or 1 without a request."""
    allocator.collect_seldom()
    openmp.wait_briefly()
    # Output that a library prints must not mix with the messages.
    reporter = _Reporter(os.fdopen(os.dup(1), "w", encoding="utf-8"))
    os.dup2(2, 1)
    file_io.drop_unwritable_messages()
    messages = _received()
    request = next(messages, None)
    if request is None:
        return 1  # the study ended before it sent a request
    assert isinstance(request, Request)
    replies: queue.SimpleQueue[Message] = queue.SimpleQueue()
    threading.Thread(target=_hear, args=(messages, replies, reporter), daemon=True).start()

    try:
        allocator.check_address_space()
        with downloads_told(reporter.progress), allocator.memory_errors():
            _work_on(request, reporter, replies)
    except AfinaError as error:
        reporter.send(Failed.of(error))
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    allocator.end_at_once(main())
