"""Plan: the pretrained models to compare, what each method costs on this machine, and what an amount of time buys.

The costs are measured by `afina plan` in a process of its own for each model, one after the other, so that no
measurement disturbs another.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from afina.models.backbone_spec import PACKAGED
from afina.report.formatting import listed
from afina.sentence import Sentence
from afina.studies.choosing.recorded_curves import MANY, RECORDED, RECORDED_ON, REGRETS, BackboneKind, Regret
from afina.studies.runs.inputs import is_encoder
from afina.studio import problems
from afina.studio.command_process import CommandProcess
from afina.studio.folder import Project, StudioFolder
from afina.studio.forms import Form
from afina.studio.measurements import measurement_of
from afina.studio.option_labels import in_words
from afina.studio.page import PageRouter, Visit
from afina.studio.pages.data import arguments_of, recognised
from afina.studio.pages.runs import asked_minutes, chosen_backbones, offered, suited
from afina.studio.run_queue import runs_of

TEMPLATE = "plan.html.j2"

LEAST, MOST, STEP = 3, 60, 1
"""The ends of the slider and its step, in minutes."""

router = PageRouter()


@dataclass(frozen=True)
class BackbonePlan:
    """The costs of the methods on a pretrained model.

    Attributes:
        state: `waits` for the model before it, `running`, `done` or `failed`.
        found: The answer of `afina plan --json`.
        left_out: Sentences about methods that are left out.
    """

    backbone: str
    state: str
    found: Mapping[str, Any] | None = None
    left_out: Sequence[str] = ()
    said: str = ""
    problem: str = ""


@dataclass(frozen=True)
class PlanFacts:
    """Pretrained models, costs and time.

    Attributes:
        bought: What each recorded amount of time buys: `minutes`, and their `regret` from the recorded curves.
        words: What the chosen minutes buy, in sentences.
        needed: Minutes in which every setting that `choose` tries would be trained on all texts; None if not known.
        suited: The project's pretrained models that can learn its kind of task.
        busy: Whether a run is carried out or about to begin, which a measurement would disturb.
    """

    project: Project
    command: str
    plans: Sequence[BackbonePlan]
    minutes: int
    bought: Sequence[Mapping[str, Any]]
    words: Sequence[str]
    needed: int | None
    busy: bool
    known: Mapping[str, str]
    suited: Sequence[str]
    least: int = LEAST
    most: int = MOST
    step: int = STEP

    @property
    def is_final(self) -> bool:
        states = {one.state for one in self.plans}
        return "running" not in states and (self.busy or "waits" not in states)


def plan_arguments(project: Project, backbones: Sequence[str]) -> list[str]:
    """Return the arguments of `afina plan` for a project on these models."""
    chosen = [word for one in backbones for word in ("--backbone", one)]
    return ["plan", *arguments_of(project), *chosen, "--considered"]


@router.live("/{project}/plan/live", "plan_live.html.j2")
@router.page("/{project}/plan", TEMPLATE)
def plan(visit: Visit, project: str) -> PlanFacts:
    """Return what the methods cost on the project's models; begin to measure unless a run is carried out."""
    opened = visit.project(project)
    busy = _is_busy(visit.folder)
    plans: list[BackbonePlan] = []
    backbones = suited(opened)
    for one in backbones:
        waits = busy or any(before.state in ("waits", "running") for before in plans)
        plans.append(_plan(opened, one, waits=waits))
    minutes = max(LEAST, min(asked_minutes(opened, visit.query.get("minutes", "")), MOST))
    kinds = _kinds(backbones)
    return PlanFacts(
        project=opened,
        command=shlex.join(["afina", *plan_arguments(opened, backbones)]),
        plans=plans,
        minutes=minutes,
        bought=[{"minutes": after, "regret": regret} for after, regret in REGRETS[kinds].items()],
        words=_bought(minutes, REGRETS[kinds], _named(backbones)) + _conditions(opened, kinds),
        needed=_needed(plans, kinds),
        known=offered(opened),
        suited=backbones,
        busy=busy and any(one.state == "waits" for one in plans),
    )


def _is_busy(folder: StudioFolder) -> bool:
    return any(run.state in ("queued", "running", "stopping") for one in folder.projects() for run in runs_of(one))


def _plan(project: Project, backbone: str, *, waits: bool) -> BackbonePlan:
    """Return the costs on a model; begin to measure them unless another measurement, or a run, has to end first."""
    process = measurement_of(project, backbone)
    if process.status is not None:
        return _measured(project, backbone, process)
    if process.is_running:
        return BackbonePlan(backbone, "running", said=in_words(project, process.last_words))
    if waits:
        return BackbonePlan(backbone, "waits")
    process.start([*plan_arguments(project, [backbone]), "--json"])
    return BackbonePlan(backbone, "running")


def _measured(project: Project, backbone: str, process: CommandProcess) -> BackbonePlan:
    found = process.answer()
    if "methods" not in found:
        return BackbonePlan(backbone, "failed", problem=in_words(project, process.problem or "no answer"))
    left_out = [in_words(project, Sentence.from_json(one["parts"])) for one in found["left_out"]]
    return BackbonePlan(backbone, "done", found, left_out)


def _kind(backbone: str) -> BackboneKind:
    return "encoder" if backbone in PACKAGED and is_encoder(backbone) else "causal"


def _kinds(backbones: Sequence[str]) -> frozenset[BackboneKind]:
    """Return the kinds of the models; the causal model stands for models that are not packaged."""
    return frozenset(map(_kind, backbones))


def _named(backbones: Sequence[str]) -> str:
    return " and ".join(RECORDED_ON[kind] for kind in sorted(_kinds(backbones)))


def _bought(minutes: int, regrets: Mapping[int, Regret], named: str) -> list[str]:
    """Return sentences about what these minutes buy."""
    known = max((one for one in regrets if one <= minutes), default=min(regrets))
    following = next((one for one in regrets if one > minutes), None)
    regret = regrets[known]
    said = [
        f"With {known} minutes on {named}, the recommended model was {regret.mean:.1f} points of accuracy worse than "
        f"the best method and learning rate (95 % interval {regret.low:.1f} to {regret.high:.1f})."
    ]
    if known < minutes:
        like = f"between those with {known} and {following} minutes" if following else f"as with {known} minutes"
        said.append(f"{minutes} minutes were not recorded: expect a result {like}.")
    elif minutes < known:
        said.append(f"{minutes} minutes were not recorded: expect a worse result.")
    return said


def _conditions(project: Project, kinds: frozenset[BackboneKind]) -> list[str]:
    """Return sentences about what the recorded curves are of."""
    best = f"the better of {listed([*RECORDED_ON.values()])}" if "encoder" in kinds else "embedded"
    said = [
        "These figures are from recorded learning curves: two tasks of classes, 200 and 1,500 labelled texts, and "
        f"two processor cores. The best method is the best on {best}. A negative figure is due to chance in the "
        "held-out texts.",
    ]
    others = [one for one in suited(project) if one not in RECORDED_ON.values()]
    if others:
        said.append(f"There are no recorded curves of {', '.join(others)}.")
    kind = recognised(project).get("kind")
    if kind and kind not in RECORDED:
        said.append(
            f"There are no recorded curves of tasks of kind {kind}, so these figures say less about your texts."
        )
    return said


def _needed(plans: Sequence[BackbonePlan], kinds: frozenset[BackboneKind]) -> int | None:
    """Return the minutes that a training of each setting takes, if all times are known."""
    times: dict[tuple[BackboneKind, str], float] = {}
    for one in plans:
        for method, figures in one.found["methods"].items() if one.found else ():
            if figures["train_seconds"] is not None:
                times[_kind(one.backbone), method] = figures["train_seconds"]
    settings = [(kind, method) for kind, method, _ in MANY.orders[kinds]]
    if any(one.state != "done" for one in plans) or not all(setting in times for setting in settings):
        return None
    return max(1, round(sum(times[setting] for setting in settings) / 60))


@router.form("/{project}/plan/backbones", plan, TEMPLATE)
def set_backbones(visit: Visit, form: Form, project: str) -> str:
    """Set the pretrained models that are compared."""
    chosen = chosen_backbones(visit, form, visit.project(project))
    if not chosen:
        raise problems.FIELD_MISSING(field="Pretrained models")
    replace(visit.project(project), backbones=tuple(dict.fromkeys(chosen))).save()
    return f"/{project}/plan?minutes={asked_minutes(visit.project(project), form.get('minutes'))}"


@router.form("/{project}/plan/again", plan, TEMPLATE)
def measure_again(visit: Visit, form: Form, project: str) -> str:
    """Measure once more, also while a run is carried out."""
    opened = visit.project(project)
    processes = {one: measurement_of(opened, one) for one in suited(opened)}
    if not any(process.is_running for process in processes.values()):
        for process in processes.values():
            process.forget()
        first = suited(opened)[0]
        processes[first].start([*plan_arguments(opened, [first]), "--json"])
    return f"/{project}/plan"
