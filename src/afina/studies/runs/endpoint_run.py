"""A run whose texts a model behind an API answers: what asking would take, the permission to send texts, and the run.

Nothing is opened or trained on this machine, and the run has no adapter. The kept answers of a model are in the output
directory, so that a repeated or interrupted study asks only for what is missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from afina import meter
from afina.data.task import Task
from afina.data.template import Template
from afina.endpoints import asking
from afina.endpoints.answers import EndpointFacts, EndpointForecast, costs
from afina.endpoints.endpoint import Endpoint
from afina.endpoints.questions import EndpointQuestion
from afina.events import Listener, Progress, ignore
from afina.methods import make
from afina.models import objectives
from afina.models.objective import Objective, metric_for
from afina.models.predictions import Predictions
from afina.studies import problems
from afina.studies.runs.inputs import TaskFacts, of_data
from afina.studies.runs.output_directory import OutputDirectory
from afina.studies.runs.record import EndpointUse, Environment, Memory, Prompting, Record, Seconds
from afina.studies.runs.spec import RunSpec

if TYPE_CHECKING:  # it loads torch, which the start of a command does without
    from afina.data.token_cache import EncodedTask


def endpoint_of(run: RunSpec) -> Endpoint:
    made = make(run.method, run.hyperparameters)
    assert isinstance(made, Endpoint)
    return made


def question_of(run: RunSpec, task: Task | TaskFacts) -> EndpointQuestion:
    """Return how the texts of a run are asked. Raises InvalidStudy if template or words do not suit the task."""
    about: dict[str, Any] = {"template": run.ask.template, "words": run.ask.words, "columns": task.columns}
    return EndpointQuestion.of(task.kind, task.label_names, pairs=task.pairs, **about)


@dataclass(frozen=True)
class Inquiry:
    """What a run asks: the endpoint, and a prompt for each evaluation text of the task.

    None as `templates`: prompts have no examples from the training texts.
    """

    run: RunSpec
    task: Task
    endpoint: Endpoint
    question: EndpointQuestion
    templates: Sequence[Template] | None
    kept: Path

    @classmethod
    def of(cls, run: RunSpec, out: Path, task: Task | None = None) -> Inquiry:
        """Return what `run` would ask. Raises the same errors as reading the task, and InvalidStudy.

        `out` is the output directory, or the scratch directory of the run in it.
        """
        endpoint = endpoint_of(run)
        read = task or Task.load(run.task, run.data, **run.training.cuts)
        question = question_of(run, read)
        templates = asking.templates_of(endpoint, question, read, read.evaluation, run.seed)
        return cls(run, read, endpoint, question, templates, OutputDirectory(out).whole.answers)

    def foresee(self, *, anew: bool = False) -> EndpointForecast:
        """Return what asking would take, less what is kept unless `anew` is set."""
        given = (self.endpoint, self.question, self.task.evaluation, None if anew else self.kept)
        return asking.foresee(*given, templates=self.templates)

    def check_permission(self) -> str:
        """Say what will be sent to which host; "" if all answers are kept. Raises Refused or NotFound (the key)."""
        found = self.foresee()
        if not found.requests:
            return ""
        told = sending(found)
        if not self.run.send_texts:
            raise problems.TEXTS_NOT_SENT(run=self.run.title, host=found.host, _told=told, option="send_texts")
        self.endpoint.secret()
        return f"{self.run.title}: sending {told}{self._too_little(found)}"

    def _too_little(self, found: EndpointForecast) -> str:
        """Return a sentence if the budget will probably not suffice; else nothing."""
        option = asking.passed_limit(self.endpoint, found, self.kept)
        if option is None:
            return ""
        limit = getattr(self.endpoint, option)
        return (
            f". The limit {option}={limit} is too low for this, with earlier runs in this directory: the run will "
            f"probably stop before all texts are answered. Raise {option}."
        )

    def ask(self, objective: Objective, listen: Listener) -> tuple[Predictions, EndpointFacts]:
        given = (self.endpoint, self.question, self.task.evaluation, objective, self.kept)
        found = asking.ask(*given, templates=self.templates, listen=listen)
        return found.predictions, found.facts


def sending(found: EndpointForecast) -> str:
    """Return in words what would be sent: the numbers of texts and tokens, the host, and the cost, if known."""
    tokens = f"about {found.tokens_in:,} tokens of prompts and {found.tokens_out:,} of answers"
    cost = "" if found.cost is None else f", which cost about {found.cost:.2g} and at most {found.most_cost:.2g}"
    return f"{found.requests:,} requests with texts to {found.host} ({tokens}{cost})"


def execute(run: RunSpec, out: Path, *, study: str = "", listen: Listener = ignore, task: Task | None = None) -> Record:
    """Ask the endpoint of `run` for the evaluation texts, and write the predictions into `out`, like `execute`."""
    began = meter.now()
    listen(Progress("load"))
    inquiry = Inquiry.of(run, out, task)
    read = inquiry.task
    run = of_data(run, read)
    objective = objectives.make(read.label_names, {"kind": read.kind}).of(read.train.labels)
    inquiry.check_permission()
    asked = meter.now()
    listen(Progress("evaluate", 0, len(read.evaluation)))
    predictions, facts = inquiry.ask(objective, listen)
    answered = meter.now()
    listen(Progress("save"))
    directory = OutputDirectory(out)
    path = directory.predictions(run.label)
    written = predictions.write(path)
    seconds = Seconds(load=asked - began, encode=0.0, train=0.0, evaluate=answered - asked, save=meter.now() - answered)
    files = {"predictions": directory.relative(path), "predictions_digest": written, "seconds": seconds}
    return _record(inquiry, study, run, objective, predictions, facts, files).sealed()


def repriced(record: Record, run: RunSpec) -> Record:
    """Return the record with its costs at the prices that `run` has now; prices change no answer."""
    use, endpoint = record.endpoint, endpoint_of(run)
    if use is None or (use.price_in, use.price_out) == (endpoint.price_in, endpoint.price_out):
        return record
    cost, cost_per_1000 = costs(endpoint, use.tokens_in, use.tokens_out, use.replied)
    now = {"price_in": endpoint.price_in, "price_out": endpoint.price_out, "cost": cost, "cost_per_1000": cost_per_1000}
    return record.model_copy(update={"endpoint": EndpointUse(**{**use.model_dump(), **now})}).sealed()


def record_fields(run: RunSpec, study: str, task: Task | EncodedTask, objective: Objective) -> dict[str, Any]:
    """Return the fields of a record that say what a run was, wherever its answers come from."""
    return {
        "key": run.key,
        "study": study,
        "name": run.title,
        "method": run.method,
        "title": make(run.method, run.hyperparameters).title,
        "seed": run.seed,
        "backbone": run.backbone,
        "task": run.task,
        "label_names": task.label_names,
        "columns": dict(task.columns),
        "notes": task.notes,
        "kind": objective.kind,
        "objective": objective.settings,
        "ceiling": dict(task.ceiling),
        "train_examples": len(task.train) + len(task.calibration or ()) + len(task.abstention or ()),
        "temperature_examples": None if task.calibration is None else len(task.calibration),
        "examples": len(task.evaluation),
        "leaked": task.leaked,
        "data_digest": run.data_digest,
    }


_NOTHING_HERE: Mapping[str, Any] = {
    **dict.fromkeys(("trainable", "body", "head", "total", "steps", "tokens", "truncated"), 0),
    **dict.fromkeys(("tokens_per_second", "adapter", "digest")),
    "memory": {**dict.fromkeys(Memory.model_fields), "state_bytes": 0},
}
"""The fields of a record on what a run computes on this machine, for a run that only asks."""


def _record(
    inquiry: Inquiry,
    study: str,
    run: RunSpec,
    objective: Objective,
    predictions: Predictions,
    facts: EndpointFacts,
    files: dict[str, Any],
) -> Record:
    task, question, endpoint = inquiry.task, inquiry.question, inquiry.endpoint
    words = {name: tuple(each) for name, each in question.words.items()} or None
    return Record(
        **record_fields(run, study, task, objective),
        hyperparameters=make(run.method, run.hyperparameters).effective,
        training={},
        ask=Prompting(template=question.template.source, words=words),
        metric=metric_for(objective, run.metric, task.metric),
        metrics=objective.metrics(predictions),
        signatures=objective.signatures(predictions.right),
        losses=(),
        **_NOTHING_HERE,
        environment=_environment(task, endpoint),
        endpoint=EndpointUse(**asdict(facts), price_in=endpoint.price_in, price_out=endpoint.price_out),
        **files,
    )


def _environment(task: Task, endpoint: Endpoint) -> Environment:
    import torch

    from afina import device

    here: dict[str, Any] = device.environment_fields(torch.device("cpu"), torch.float32)
    unknown = {
        "device": f"unknown, at {endpoint.host}",
        "dtype": "unknown",
        "backbone_digest": "",
        "tokenizer_digest": "",
    }
    digests = {"train_digest": task.train.digest, "evaluation_digest": task.evaluation.digest}
    return Environment(**{**here, **unknown, **digests})
