"""What trainings on few labelled texts teach `afina choose`, and its regret by the number of labels.

    python benchmarks/few_lessons.py            the table of docs/background/choose.md
    python benchmarks/few_lessons.py --page     put it there
    python benchmarks/few_lessons.py --lessons  what `afina.studies.choosing.recorded_curves.FEW` has built in

The records are those of `few_labels.py`. Each task is judged with what was learnt from the other two, by the code of
`afina choose` on simulated trainings (`replay.py`). The 400 held-out texts of a task are divided into halves. From one
half, the validation texts of the simulated `choose` and its held-out texts are drawn, and the same half says which
candidate is best. The other half says how accurate the best and the recommended model are; then the halves change
places. So no text both selects a model and measures it.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, product
from typing import Any

import numpy as np

import few_labels
from afina.digest import derive_seed
from afina.studies.choosing import floors
from afina.studies.choosing.recorded_curves import BackboneKind, Lessons, Setting
from afina.studies.choosing.training_length import SHARE
from choose import PAGE, Regret, cells, grid, points, regret
from few_labels import (
    DRAWS,
    MAJORITY,
    ON_EMBEDDED,
    ON_ENCODER,
    SETFIT,
    SHOTS,
    TASKS,
    TFIDF,
    WITH_SHOTS,
    ZERO,
    Arm,
    Cell,
    rate_of,
)
from learning_curves import ENCODER, KEPT, read
from learning_curves import Cell as Place
from lessons import BACKBONES, KINDS, of_rate, taught, together
from policies import MOST_COUNTS, ON, Kept, Recorded
from replay import of_many, replayed

MARKS = re.compile(r"(<!-- begin: benchmarks/few_lessons.py -->\n).*?(<!-- end -->)", re.DOTALL)
SIZES = (16, 64)
"""The numbers of labels of the lessons, at which LoRA and full fine-tuning on `embedded` are recorded."""

SIXTEEN_EACH = {"movies": 32, "products": 32, "domains": 64}
"""The numbers of labels that are 16 of each class, on average."""

OFTEN = (256, 1_024)
"""The numbers of labels at which LoRA and full fine-tuning are recorded on `embedded` alone, at one learning rate."""

MOST_SEEN = 80
"""The largest number of simulated held-out texts; the other 120 texts of a half are for validation."""

MANY = tuple(dict.fromkeys(cell.size for cell in cells()))
MINUTES, LITTLE = 10, 1e-6
TRAINED = {"embedded": ON_EMBEDDED, ENCODER: (*ON_ENCODER, SETFIT)}
"""The settings of each backbone that are trained by gradient steps."""

PROBES = {name: Arm(name, "linear_probe") for name in BACKBONES}
BASELINES = {floors.MAJORITY: MAJORITY, floors.TFIDF: TFIDF}
ASKED = {0: ZERO, SHOTS: WITH_SHOTS}
SETS = {"embedded alone": ("embedded",), f"{ENCODER} alone": (ENCODER,), "both": BACKBONES}
Figures = Mapping[Cell, Mapping[str, Any]]


def answers(known: Figures, task: str, labels: int, seed: int = 0) -> dict[Arm, np.ndarray]:
    """Which held-out predictions of each recorded arm are right, bool [400], with a draw of this many labels.

    LoRA and full fine-tuning on `embedded` are the candidates of `choose`, or where these were not measured, those of
    `words.py`, at the learning rate that 200 other texts selected.
    Arms on `embedded` that were measured with one draw have the same answers for every draw.
    """
    cell_of = {arm: Cell(task, labels, arm, seed) for arm in (*ON_ENCODER, SETFIT, PROBES[ENCODER], TFIDF)}
    for arm in ON_EMBEDDED:
        own = Cell(task, labels, arm, seed)
        cell_of[arm] = own if own in known else few_labels.of_best_rate(known, task, labels, arm, seed)
    probe = PROBES["embedded"]
    cell_of[probe] = next(
        (cell for s in (seed, 0) if (cell := Cell(task, labels, probe, s)) in known), Cell(task, 0, probe)
    )
    cell_of |= {ZERO: Cell(task, 0, ZERO), WITH_SHOTS: Cell(task, SHOTS, WITH_SHOTS)}
    cell_of[MAJORITY] = Cell(task, few_labels.SIZES[-1], MAJORITY)
    return {arm: few_labels.right_of(known[cell], task) for arm, cell in cell_of.items() if cell in known}


class Draws:
    """The right answers of a backbone's arms in the draws of which all arms were measured.

    Attributes:
        trained: The arms that are trained by gradient steps; those that a task lacks are left out.
        of: The right answers of each draw by arm, by task and number of labels.
    """

    def __init__(self, known: Figures, tasks: Sequence[str], backbone: str) -> None:
        self.of = {place: [answers(known, *place, seed) for seed in range(DRAWS)] for place in product(tasks, SIZES)}
        self.trained = [arm for arm in TRAINED[backbone] if all(arm in one[0] for one in self.of.values())]
        self.arms = [PROBES[backbone], *self.trained]
        for place, each in self.of.items():
            self.of[place] = [one for one in each if {*self.arms} <= one.keys()]

    @property
    def right(self) -> np.ndarray:
        """The right answers, bool [draws of all places, arms, texts]."""
        return np.array([[one[arm] for arm in self.arms] for each in self.of.values() for one in each])

    @property
    def levels(self) -> np.ndarray:
        """The right answers of the mean trained arm, a mean over draws, float [places, texts]."""
        return np.array(
            [np.mean([[one[arm] for arm in self.trained] for one in each], (0, 1)) for each in self.of.values()]
        )

    def accuracy(self, arm: Arm) -> np.ndarray:
        """The accuracy of an arm, a mean over draws, float [places]."""
        return np.array([np.mean([one[arm] for one in each]) for each in self.of.values()])


def learned(known: Figures, tasks: Sequence[str]) -> Lessons:
    """The lessons of these tasks."""
    draws = {name: Draws(known, tasks, name) for name in BACKBONES}
    means = {name: one.levels.mean(axis=1) for name, one in draws.items()}
    middle = (means["embedded"] + means[ENCODER]) / 2
    ahead = {
        setting(arm): float((one.accuracy(arm) - means[name]).mean()) for name, one in draws.items() for arm in one.arms
    }
    first = draws["embedded"]
    levels = {KINDS[name]: float((each - middle).mean()) for name, each in means.items()}
    order = {KINDS[name]: _order([setting(arm) for arm in one.arms], ahead) for name, one in draws.items()}
    return Lessons(
        orders={
            frozenset({"causal"}): order["causal"],
            frozenset({"encoder"}): order["encoder"],
            frozenset({"causal", "encoder"}): _merged(order, ahead, levels),
        },
        ahead=ahead,
        counts={KINDS[name]: _counts(one.right) for name, one in draws.items()},
        levels=levels,
        level_counts=_counts(np.stack([one.levels for one in draws.values()], axis=1)),
        asked={
            shots: float((first.accuracy(arm) - means["embedded"]).mean())
            for shots, arm in ASKED.items()
            if all(arm in one for each in first.of.values() for one in each)
        },
        baselines={name: float((first.accuracy(arm) - middle).mean()) for name, arm in BASELINES.items()},
        others={kind: min(value for one, value in ahead.items() if one[0] == kind) for kind in levels},
        further=frozenset({SETFIT.method} & {arm.method for arm in draws[ENCODER].trained}),
    )


def setting(arm: Arm) -> Setting:
    """The arm in the form of `recorded_curves`."""
    return of_rate(KINDS[arm.backbone], arm.method, rate_of(arm))


def _order(settings: Sequence[Setting], ahead: Mapping[Setting, float]) -> tuple[Setting, ...]:
    """The probe, then the others by their advantage."""
    first, *rest = settings
    return (first, *sorted(rest, key=lambda one: -ahead[one]))


def _merged(
    orders: Mapping[BackboneKind, Sequence[Setting]],
    ahead: Mapping[Setting, float],
    levels: Mapping[BackboneKind, float],
) -> tuple[Setting, ...]:
    """The probes, then the others by their expected accuracy."""
    rest = [one for order in orders.values() for one in order[1:]]
    rest.sort(key=lambda one: -(levels[one[0]] + ahead[one]))
    return (*(order[0] for order in orders.values()), *rest)


def _counts(right: np.ndarray) -> float:
    """How many texts tell as much as the mean advantage over cells, from right answers [cells, arms, texts].

    It is the variance of an arm's answer on a text, beside other arms and texts, divided by the variance between cells
    of the arm's advantage, without chance.
    """
    right = right.astype(float)
    cells_, arms, texts = right.shape
    accuracy = right.mean(axis=2)
    ahead = accuracy - accuracy.mean(axis=1, keepdims=True)
    rest = right - right.mean(1, keepdims=True) - right.mean(2, keepdims=True) + right.mean((1, 2), keepdims=True)
    of_a_text = float((rest**2).sum()) / (cells_ * (arms - 1) * (texts - 1))
    between = float(((ahead - ahead.mean(axis=0)) ** 2).sum()) / max(1, (cells_ - 1) * (arms - 1))
    return min(MOST_COUNTS, of_a_text / max(between - of_a_text / texts, 1e-9))


def rounded(lessons: Lessons) -> Lessons:
    """The lessons with the digits that are built in."""
    return Lessons(
        orders=lessons.orders,
        ahead={one: round(value, 3) for one, value in lessons.ahead.items()},
        counts={kind: int(round(value, -1)) for kind, value in lessons.counts.items()},
        levels={kind: round(value, 3) for kind, value in lessons.levels.items()},
        level_counts=int(round(lessons.level_counts, -1)),
        asked={shots: None if value is None else round(value, 3) for shots, value in lessons.asked.items()},
        baselines={name: round(value, 3) for name, value in lessons.baselines.items()},
        others={kind: round(value, 3) for kind, value in lessons.others.items()},
        further=lessons.further,
    )


@dataclass(frozen=True)
class Conditions:
    """The conditions of a simulated choice.

    Attributes:
        held_out: The number of held-out texts. None: a quarter of the number of training texts.
        prior: Whether recorded trainings count beside the validation texts and the held-out texts.
        crossed: Whether all training texts validate, as in cross-validation, and not a fifth of them.
        many: Whether the lessons are those of many texts, of the settings that are recorded in the cell.
    """

    held_out: int | None = None
    prior: bool = True
    crossed: bool = False
    many: bool = False

    def of(self, lessons: Lessons) -> Lessons:
        """The lessons, or only their order if recorded trainings do not count."""
        if self.prior:
            return lessons
        none = dict.fromkeys(lessons.counts, LITTLE)
        return replace(lessons, counts=none, asked=dict.fromkeys(lessons.asked), baselines={})


def simulated(
    known: Figures, curves: Sequence[Mapping[str, Any]], place: tuple[str, int, int, int], held_out: int, share: float
) -> Recorded:
    """The cell as the simulated `choose` meets it: `held_out` texts of one half, followed by the other half.

    Args:
        place: The task, the number of labels, the draw of the labels, and the half.
        share: The number of validation texts, divided by the number of labels.
    """
    task, labels, seed, half = place
    right = answers(known, task, labels, seed)
    texts = np.arange(len(right[ZERO])).reshape(2, -1)
    drawn = np.random.Generator(np.random.PCG64(derive_seed(seed, f"{task} {labels} {half}"))).permutation(texts[half])
    validation = drawn[: max(1, min(round(share * labels), len(drawn) - held_out))]
    order = np.concatenate([drawn[-held_out:], texts[1 - half]])
    ends = {}
    for arm, each in right.items():
        if arm.backbone and arm.method != ZERO.method:
            name = f"{arm.method}{ON}{arm.backbone}", few_labels.rate_of(arm) or 0.0
            value = float(each[validation].mean())
            ends[name] = Kept(name, value, 1 - value, each[order])
    untrained = {arm.method: right[arm][order] for arm in (MAJORITY, TFIDF, ZERO)}
    if WITH_SHOTS in right:
        untrained[f"zero-shot-{SHOTS}-shots"] = right[WITH_SHOTS][order]
    paces = {**together(curves, cells()[0]).paces}
    paces[f"{SETFIT.method}{ON}{SETFIT.backbone}"] = paces[f"full{ON}{SETFIT.backbone}"]
    return Recorded(
        Place(task, labels), {}, ends, {one: (0, kept) for one, kept in ends.items()}, untrained, paces, held_out
    )


def best(known: Figures, task: str, labels: int, seed: int, half: int, backbones: Sequence[str]) -> np.ndarray:
    """The answers on the other half of the candidate that is best on one half."""
    right = answers(known, task, labels, seed)
    mine = [arm for arm in right if arm.backbone in backbones or arm.backbone == ""]
    texts = np.arange(len(right[ZERO])).reshape(2, -1)
    chosen = max(mine, key=lambda arm: float(right[arm][texts[half]].mean()))
    return right[chosen][texts[1 - half]].astype(float)


def of_many_texts(curves: Sequence[Mapping[str, Any]], task: str, arms: Sequence[Arm]) -> Lessons:
    """What the cells of other tasks with many texts teach, with only the settings of these arms in its orders."""
    backbones = [one for one in BACKBONES if any(arm.backbone == one for arm in arms)]
    there = [together(curves, one, backbones) for one in cells() if one.domain != task]
    made, mine = of_many(taught(there), backbones), {setting(arm) for arm in arms if arm.backbone}
    kept = {kinds: tuple(one for one in order if one in mine) for kinds, order in made.orders.items()}
    return replace(made, orders=kept)


def regret_of(
    known: Figures,
    of_task: int | Mapping[str, int],
    backbones: Sequence[str],
    how: Conditions = Conditions(),
    tasks: Sequence[str] | None = None,
) -> Regret:
    """The regret at a number of labels, of the draws of which all arms were measured.

    Args:
        of_task: The number of labels, of all tasks or by task.
        tasks: The tasks that are judged, each with what was learned from all others. None: all tasks.
    """
    curves, by_cell = read(KEPT), {}
    for task, half in product(tasks or TASKS, (0, 1)):
        labels = of_task if isinstance(of_task, int) else of_task[task]
        seen, share = how.held_out or labels // 4, 1.0 if how.crossed else SHARE
        arms = [{arm for arm in answers(known, task, labels, one) if arm.backbone in backbones} for one in range(DRAWS)]
        if how.many:
            lessons = of_many_texts(curves, task, [*arms[0]])
        else:
            lessons = how.of(learned(known, [one for one in TASKS if one != task]))
        policy = replayed(backbones, lessons=lambda there, made=lessons: made)
        each = []
        for seed in (one for one in range(DRAWS) if arms[one] == arms[0]):
            cell = simulated(known, curves, (task, labels, seed, half), seen, share)
            found = policy(cell, MINUTES, [])[seen:].astype(float)
            each.append(best(known, task, labels, seed, half, backbones) - found)
        by_cell[f"{task}, {half}"] = np.mean(each, axis=0)
    return Regret(by_cell)


CONDITIONS = {
    "**{labels}, {few} held out**": Conditions(),
    "{labels}, {few} held out, without recorded trainings": Conditions(prior=False),
    "{labels}, {few} held out, all training texts validate": Conditions(crossed=True),
}


NOT = "–"
"""A cell of the table that the recorded trainings do not suffice for."""


def of_few(known: Figures) -> Iterator[list[str]]:
    """The rows with few labels, under several conditions."""
    for (name, how), labels in product(CONDITIONS.items(), SIZES):
        found = [regret_of(known, labels, each, how) for each in SETS.values()]
        yield [name.format(labels=labels, few=how.held_out or labels // 4), *map(points, found)]


def of_sixteen_each(known: Figures) -> Iterator[list[str]]:
    """The rows with 16 labels of each class: of the task of four classes, and of all tasks on the encoder."""
    found = [regret_of(known, SIXTEEN_EACH["domains"], each, tasks=("domains",)) for each in SETS.values()]
    yield ["**16 of each class**, domains", *map(points, found)]
    yield ["**16 of each class**, three tasks", NOT, points(regret_of(known, SIXTEEN_EACH, (ENCODER,))), NOT]


def of_often(known: Figures) -> Iterator[list[str]]:
    """The rows with more labels of the three tasks, of which only `embedded` has recorded trainings."""
    for labels in OFTEN:
        how = Conditions(held_out=min(labels // 4, MOST_SEEN), many=True)
        found = points(regret_of(known, labels, ("embedded",), how))
        yield [f"**{labels:,}, {how.held_out} held out**, three tasks", found, NOT, NOT]


def of_many_labels() -> Iterator[list[str]]:
    """The rows of the tasks of `choose.py`."""
    lines = read(KEPT)
    found_in = [
        regret(replayed(each), [together(lines, cell, each) for cell in cells()], MINUTES).by_cell
        for each in SETS.values()
    ]
    for labels in MANY:
        of_size = [{name: one for name, one in each.items() if f" {labels:,} " in name} for each in found_in]
        yield [f"**{labels:,}, 300 held out**", *(points(Regret(each)) for each in of_size)]


def table(known: Figures) -> str:
    """The regret by the number of labels, under several conditions with few labels."""
    rows = []
    for row in chain(of_few(known), of_sixteen_each(known), of_often(known), of_many_labels()):
        rows.append(row)
        print(row, flush=True)
    return grid(["training texts", *SETS], rows)


def main() -> None:
    """Run the benchmark with the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", action="store_true", help="put the table into docs/background/choose.md")
    parser.add_argument("--lessons", action="store_true", help="print what the records teach")
    options = parser.parse_args()
    known = few_labels.known()
    if options.lessons:
        made = rounded(learned(known, TASKS))
        for name, value in vars(made).items():
            print(name, value, sep="\n  ")
        return
    text = table(known)
    print(text)
    if options.page:
        page = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(MARKS.sub(lambda marks: f"{marks[1]}\n{text}\n{marks[2]}", page), encoding="utf-8")


if __name__ == "__main__":
    main()
