"""Results: what has come of a study or a recommendation, and the directory that holds it. Starts without torch.

Knows facts; no words, tables or pages, which are `afina.report`'s.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from afina import repr_html
from afina.errors import InvalidData, NotFound, UnknownName
from afina.repr_html import ReprCard, figure
from afina.schema import Frozen
from afina.stats.metrics import METRICS
from afina.studies import trials
from afina.studies.recommendation import Recommendation
from afina.studies.runs import output_directory
from afina.studies.runs.output_directory import OutputDirectory, OutputLock
from afina.studies.runs.record import Record, Result
from afina.studies.runs.spec import Data
from afina.studies.trials import Tuned


@dataclass(frozen=True)
class Failure:
    """A run that ended in an error. It is not recorded, so the next call of the study tries it again."""

    name: str
    method: str
    seed: int
    error: str


class Request(Frozen):
    """What a study asked for; `study.json`.

    keys   of its runs, in their order
    study  the fields of `Study`, with the settings that tuning chose
    """

    name: str
    task: str
    data: Data
    keys: tuple[str, ...]
    study: dict[str, Any]
    command: tuple[str, ...] = ()


@dataclass(frozen=True, repr=False)
class Results(ReprCard):
    """The facts so far, in the order of the study's runs, and the runs that failed this time.

    task, data      what the runs were evaluated on, and how it was read
    command         the argument list that repeats it, empty where not known
    tuned           what choosing each method's settings took, where the study tunes
    recommendation  where these are the results of one: `results` are then of its contenders
    waiting         runs of the study that have neither a result nor, this time, an error
    """

    name: str
    out: Path
    results: tuple[Result, ...] = ()
    failed: tuple[Failure, ...] = ()
    command: tuple[str, ...] = ()
    tuned: tuple[Tuned, ...] = ()
    recommendation: Recommendation | None = None
    task: str = ""
    data: Data = field(default_factory=Data)
    waiting: int = 0

    @property
    def records(self) -> tuple[Record, ...]:
        """Of the results."""
        return tuple(result.record for result in self.results)

    @property
    def unsealed(self) -> tuple[Record, ...]:
        """Records of earlier versions, which have no digest of their own; reading them compared their metrics with the
        stored predictions.
        """
        return tuple(one for one in self.records if one.content_digest is None)

    def facts(self) -> dict[str, object]:
        """The facts that its repr shows."""
        return {
            "name": self.name,
            "directory": self.out,
            "task": self.task,
            "recommended": self.recommendation.recommended if self.recommendation else None,
            "results": tuple(
                f"{one.name}, seed {one.seed}: {one.metric} {figure(one.metrics[one.metric])}" for one in self.records
            ),
            "failed": tuple(f"{one.name}, seed {one.seed}" for one in self.failed),
        }

    def _repr_html_(self) -> str:
        return repr_html.results_as_html(self) or super()._repr_html_()

    def adapter(self, name: str | None = None, seed: int | None = None) -> Path:
        """The directory of an adapter, as `Predictor.load` opens it.

        name  of its run, such as `lora`; by default what is recommended, or where there is one run alone, its
        seed  by default the first of that name
        Raises UnknownName, NotFound.
        """
        records = self.records
        if name is None:
            name = self.recommendation.recommended if self.recommendation else None
            name = name or (records[0].name if len({one.name for one in records}) == 1 else None)
        if name is None or name not in {one.name for one in records}:
            raise UnknownName("run", str(name), [one.name for one in records], str(self.out))
        found = [one for one in records if one.name == name and seed in (None, one.seed)]
        if not found:
            raise NotFound(
                f"{self.out}: no run {name} with seed {seed} there.",
                code="run.missing",
                path=self.out,
                run=name,
                seed=seed,
            )
        return self.out / found[0].adapter

    @staticmethod
    def hold(out: str | Path) -> AbstractContextManager[OutputLock]:
        """Hold the directory `out`, to fill it: see `holding.hold`."""
        return output_directory.lock_output(Path(out))

    @classmethod
    def read(cls, out: str | Path) -> Results:
        """What a study, finished or not, or a recommendation left in `out`.

        Raises NotFound; InvalidData for what is damaged, or was changed by hand.
        """
        directory = OutputDirectory(Path(out))
        if not directory.holds_results:
            raise NotFound(
                f"{out}: no {directory.records.name} there, so no finished run to show. "
                "Give the `out` of a study or a recommendation.",
                code="results.missing",
                path=out,
            )
        held = OutputLock(directory, directory.read())
        if directory.recommendation.is_file():
            return of_recommendation(held, read_recommendation(directory.recommendation))
        return cls._of_study(held, read_request(directory.study))

    @classmethod
    def _of_study(cls, held: OutputLock, request: Request) -> Results:
        finished = _of_keys(held, request.keys, request.study.get("metric"))
        return cls(
            name=request.name,
            out=held.out,
            results=finished,
            waiting=len(request.keys) - len(finished),
            command=request.command,
            tuned=trials.read(held.out) if request.study.get("tune") else (),
            task=request.task,
            data=request.data,
        )


def of_recommendation(held: OutputLock, made: Recommendation) -> Results:
    """A recommendation with the results of its contenders, in their order."""
    keys = [one.key for one in made.contenders if one.key is not None]
    return Results(
        name=made.name,
        out=held.out,
        results=_of_keys(held, keys),
        command=made.command,
        recommendation=made,
        task=made.task,
        data=made.data,
    )


def _of_keys(held: OutputLock, keys: tuple[str, ...] | list[str], metric: str | None = None) -> tuple[Result, ...]:
    """metric: the headline that is asked for now, whatever it was when the runs were made."""
    by_key = {one.key: one for one in held.records}
    return tuple(measured_in(held.result(by_key[key]), metric) for key in keys if key in by_key)


def measured_in(result: Result, metric: str | None) -> Result:
    """The result with that headline, where it has such a figure, and methods can be compared by it."""
    there = result.record.metrics
    if metric in (None, result.record.metric) or metric not in there or metric not in METRICS:
        return result
    if METRICS[metric].values is None:
        return result
    return replace(result, record=result.record.model_copy(update={"metric": metric}))


def read_request(path: Path) -> Request:
    """What the study of that `study.json` asked for. Raises InvalidData."""
    try:
        return Request.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        raise InvalidData(
            f"{path}: missing or damaged. Run the study again; it skips what is recorded.",
            code="results.damaged",
            path=path,
        ) from None


def read_recommendation(path: Path) -> Recommendation:
    """The one in that `recommendation.json`. Raises InvalidData for what is damaged, or was changed by hand."""
    try:
        text = path.read_bytes()
        made = Recommendation.model_validate_json(text)
    except (OSError, ValidationError):
        raise InvalidData(
            f"{path}: damaged. Ask for the recommendation again.", code="results.damaged", path=path
        ) from None
    if problem := made.refuses(text):
        raise InvalidData(
            f"{path}: it was changed after it was made: {problem}. Restore the file, or ask for the recommendation "
            "again.",
            code="results.changed",
            path=path,
        )
    return made
