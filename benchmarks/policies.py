"""Policies of choosing, replayed on recorded curves: each spends seconds on trainings and keeps one model.

A policy sees only what it would see in reality: validation scores of its trainings, and their time. `Recorded` replays
one cell of `learning_curves.py`. A policy is tuned on the cells in `known`, and never on the cell on which it is
judged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from learning_curves import FITTED, HELD_OUT, Cell, curves, unpacked

Setting = tuple[str, float]
"""Method and learning rate. The method is called `full`, or `full-on-bge` where a cell has several backbones."""

ON = "-on-"


FLOORS = 10.0
"""Seconds that reading, the floors and the report take."""


@dataclass(frozen=True)
class Kept:
    """A trained model: what validation says, and which held-out answers are right, bool [HELD_OUT].

    whole  of a run of the full length
    """

    setting: Setting
    validation: float
    loss: float
    right: np.ndarray
    whole: bool = True

    @property
    def order(self) -> tuple[float, float]:
        """Greater is better."""
        return self.validation, -self.loss


@dataclass(frozen=True)
class Recorded:
    """A cell as a policy meets it.

    long    by setting, (step, validation, loss) on the way of a run of full length, whose held-out answers are `ends`;
    short   by setting, (steps, what a run of so many steps keeps)
    untrained  right held-out answers of the floors and of the model as it is
    held_out   how many held-out texts `choose` sees; the answers may be of more
    """

    cell: Cell
    long: Mapping[Setting, Sequence[tuple[int, float, float]]]
    ends: Mapping[Setting, Kept]
    short: Mapping[Setting, tuple[int, Kept]]
    untrained: Mapping[str, np.ndarray]
    paces: Mapping[str, Mapping[str, float]]
    held_out: int = HELD_OUT

    @property
    def cut(self) -> int:
        """Texts in the validation cut."""
        return math.ceil(self.cell.size * self.cell.cut)

    def seconds(self, method: str, steps: float, texts: int) -> float:
        """Seconds of a process that takes `steps` steps and scores `texts` texts."""
        pace = self.paces[method]
        return pace["opening"] + steps * pace["step"] + texts * pace["text"]

    def steps(self, method: str, seconds: float, texts: int) -> int:
        """Steps that fit into `seconds`; at most the full budget, and below 1 if none fits."""
        return min(self.cell.steps, math.floor((seconds - self.seconds(method, 0, texts)) / self.paces[method]["step"]))

    def on_the_way(self, setting: Setting, step: float) -> tuple[float, float]:
        """Validation and loss after `step` of the full budget: between two points, on the line through them."""
        points = self.long[setting]
        at = [one[0] for one in points]
        return (float(np.interp(step, at, [p[1] for p in points])), float(np.interp(step, at, [p[2] for p in points])))

    def whole(self, setting: Setting, steps: int) -> Kept:
        """The model of a run of that length: the nearer of the two recorded lengths, by their ratio."""
        length, kept = self.short[setting]
        return kept if steps * steps < length * self.cell.steps else self.ends[setting]

    @property
    def settings(self) -> list[Setting]:
        """All that are recorded."""
        return list(self.ends)

    def defaults(self) -> list[Setting]:
        """Each method at the middle of its rates."""
        rates = self.rates
        return [(method, sorted(each)[len(each) // 2]) for method, each in rates.items()]

    @cached_property
    def rates(self) -> dict[str, list[float]]:
        """The recorded learning rates by method."""
        found: dict[str, list[float]] = {}
        for method, rate in self.ends:
            found.setdefault(method, []).append(rate)
        return found


Policy = Callable[[Recorded, float, Sequence[Recorded]], Kept | None]
"""From a cell, seconds, and the other cells to what is kept; None where nothing could be trained."""


def asked(cell: Recorded) -> float:
    """Seconds before any policy begins: floors, and the language model as it is."""
    return FLOORS + cell.seconds("head" if "head" in cell.paces else f"head{ON}embedded", 0, HELD_OUT)


@dataclass(frozen=True)
class Learnt:
    """The facts learnt from other cells.

    order   settings, as each adds most to those before it
    ahead   held-out accuracy of each at the full length, less the mean of all: a mean over cells
    counts  texts of validation that tell as much as `ahead` does
    """

    order: Sequence[Setting]
    ahead: Mapping[Setting, float]
    counts: float


Order = tuple[float, float]


def by_validation(one: Kept) -> Order:
    """Alone."""
    return one.order


def learnt(known: Sequence[Recorded]) -> Learnt:
    """From cells."""
    there = [setting for setting in known[0].settings if all(setting in each.ends for each in known)]
    right = np.array([[cell.ends[one].right for one in there] for cell in known], float)
    accuracy = right.mean(axis=2)
    ahead = accuracy - accuracy.mean(axis=1, keepdims=True)
    return Learnt(portfolio(known), dict(zip(there, ahead.mean(axis=0), strict=True)), _counts(right, ahead))


MOST_COUNTS = 1000.0
"""Where cells differ by no more than chance."""


def _counts(right: np.ndarray, ahead: np.ndarray) -> float:
    """Return the ratio of two variances, from a two-way analysis of variance.

    The first is the variance of a setting's answer on a text, beside other settings and texts. The second is the
    variance between cells of how far a setting is ahead, without chance.

    Args:
        right: [C, S, N].
        ahead: [C, S].
    """
    cells, settings, texts = right.shape
    rest = right - right.mean(1, keepdims=True) - right.mean(2, keepdims=True) + right.mean((1, 2), keepdims=True)
    of_a_text = float((rest**2).sum()) / (cells * (settings - 1) * (texts - 1))
    between = float(((ahead - ahead.mean(axis=0)) ** 2).sum()) / max(1, (cells - 1) * (settings - 1))
    return min(MOST_COUNTS, of_a_text / max(between - of_a_text / texts, 1e-9))


def portfolio(known: Sequence[Recorded]) -> list[Setting]:
    """Return settings in greedy order: each adds most, over cells, to the settings before it.

    Of several trained settings, the best on the validation set is kept.
    """
    order: list[Setting] = []
    there = [setting for setting in known[0].settings if all(setting in each.ends for each in known)]

    def gained(settings: Sequence[Setting]) -> tuple[float, float]:
        kept = [max((each.ends[one] for one in settings), key=by_validation) for each in known]
        return float(np.mean([one.right.mean() for one in kept])), float(np.mean([one.validation for one in kept]))

    while len(order) < len(there):
        rest = [one for one in there if one not in order]
        order.append(max(rest, key=lambda one: gained([*order, one])))
    return order


def race(cell: Recorded, seconds: float, known: Sequence[Recorded]) -> Kept | None:
    """Return the result of an earlier policy of `afina choose`, a race of methods and rates with equal seconds.

    The race has two rounds. The two best methods are trained in the remaining time. The best in the race is kept
    unless the other is significantly better.
    """
    methods = [method for method, rates in cell.rates.items() if len(rates) == 3]
    left = seconds - asked(cell) - sum(cell.seconds(method, 4, cell.cut) for method in methods)
    budget = 0.4 * left

    def affordable(method: str) -> int:
        return max(1, min(3, int(budget / len(methods) / (3 * cell.seconds(method, 0, cell.cut)))))

    counts = {method: affordable(method) for method in methods}
    rates = {method: _some(cell.rates[method], counts[method]) for method in methods}
    rounds = 2 if min(counts.values()) == 3 else 1
    standing: dict[str, tuple[int, Kept]] = {}
    for turn in range(1, rounds + 1):
        each = budget / rounds / len(rates)
        placed: dict[str, list[Kept]] = {}
        for method, raced in rates.items():
            tried = []
            for rate in raced:
                steps = max(1, cell.steps(method, each / len(raced) / 1.15, cell.cut))
                left -= cell.seconds(method, steps, cell.cut)
                tried.append(cell.whole((method, rate), steps))
            placed[method] = sorted(tried, key=lambda one: one.order, reverse=True)
            standing[method] = turn, placed[method][0]
        best = sorted(placed, key=lambda name: placed[name][0].order, reverse=True)
        rates = {
            name: [one.setting[1] for one in placed[name][: math.ceil(len(placed[name]) / 2)]]
            for name in best[: max(2, math.ceil(len(placed) / 2))]
        }
    first, *others = sorted(standing.values(), key=lambda one: (one[0], one[1].order), reverse=True)[:2]
    left -= cell.seconds("head", cell.cell.steps, HELD_OUT)
    return _finals(cell, [one.setting for _, one in (first, *others)], left)


def _some(rates: Sequence[float], count: int) -> list[float]:
    """As `RATES` of the race has them: the middle, the upper two, all."""
    low, middle, high = sorted(rates)
    return {1: [middle], 2: [middle, high], 3: [low, middle, high]}[count]


def _finals(cell: Recorded, settings: Sequence[Setting], left: float) -> Kept | None:
    """The first kept unless the second is better by McNemar's test."""
    from afina.stats.significance import mcnemar

    kept = []
    for number, (method, rate) in enumerate(settings):
        later = sum(cell.seconds(other, cell.cell.steps, HELD_OUT) for other, _ in settings[number + 1 :])
        steps = cell.steps(method, max(left / (len(settings) - number), left - later), HELD_OUT)
        if steps >= 1:
            left -= cell.seconds(method, steps, HELD_OUT)
            kept.append(cell.whole((method, rate), steps))
    if len(kept) == 2:
        one, other = (each.right for each in kept)
        if other.mean() > one.mean() and mcnemar(one, other) < 0.05:
            return kept[1]
    return kept[0] if kept else None


def halving(cell: Recorded, seconds: float, known: Sequence[Recorded]) -> Kept | None:
    """Return the result of successive halving by steps of the full budget.

    All settings are trained to an eighth, the better half to a quarter, and so on; each continues where it stopped.
    There are as many settings as the time allows, the defaults first.
    """
    left = seconds - asked(cell)
    order = [*cell.defaults(), *(one for one in cell.settings if one not in cell.defaults())]
    for count in range(len(order), 0, -1):
        chosen, spent = _halved(cell, order[:count])
        if spent <= left or count == 1:
            steps = cell.cell.steps if spent <= left else cell.steps(chosen[0], left, cell.cut + HELD_OUT)
            return cell.whole(chosen, steps) if steps >= 1 else None
    return None


def _halved(cell: Recorded, settings: Sequence[Setting]) -> tuple[Setting, float]:
    """The setting that remains after halving, and the seconds spent."""
    spent, there, before = 0.0, list(settings), 0.0
    for share in (1 / 8, 1 / 4, 1 / 2, 1.0):
        if len(there) == 1:
            share = 1.0
        steps = share * cell.cell.steps
        spent += sum(cell.seconds(method, steps - before, cell.cut) for method, _ in there)
        ranked = sorted(there, key=lambda one: _order(cell.on_the_way(one, steps)), reverse=True)
        there, before = ranked[: max(1, len(ranked) // 2)], steps
        if share == 1.0:
            break
    method = there[0][0]
    return there[0], spent + HELD_OUT * cell.paces[method]["text"]


def _order(found: tuple[float, float]) -> tuple[float, float]:
    return found[0], -found[1]


def hyperband(cell: Recorded, seconds: float, known: Sequence[Recorded]) -> Kept | None:
    """Optuna's: settings in a fixed order, the defaults first, stopped by its Hyperband at eighths of the budget."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    pruner = optuna.pruners.HyperbandPruner(min_resource=1, max_resource=8, reduction_factor=2)
    study = optuna.create_study(study_name="choose", direction="maximize", pruner=pruner)  # brackets go by the name
    left = seconds - asked(cell)
    order = [*cell.defaults(), *(one for one in cell.settings if one not in cell.defaults())]
    done: list[Kept] = []
    for setting in order:
        if left < cell.seconds(setting[0], cell.cell.steps, 8 * cell.cut + HELD_OUT):
            continue
        trial, eighths = study.ask(), 8
        for eighth in range(1, 9):
            value, loss = cell.on_the_way(setting, eighth / 8 * cell.cell.steps)
            trial.report(value - 1e-4 * loss, eighth)
            if eighth < 8 and trial.should_prune():
                eighths = eighth
                break
        left -= cell.seconds(setting[0], eighths / 8 * cell.cell.steps, eighths * cell.cut)
        state = optuna.trial.TrialState.COMPLETE if eighths == 8 else optuna.trial.TrialState.PRUNED
        study.tell(trial, value if eighths == 8 else None, state=state)
        if eighths == 8:
            left -= HELD_OUT * cell.paces[setting[0]]["text"]
            done.append(cell.ends[setting])
    if not done:
        return None
    return max(done, key=lambda one: one.order)


def extrapolated(cell: Recorded, seconds: float, known: Sequence[Recorded]) -> Kept | None:
    """Return the result of extrapolating learning curves from a quarter of the budget.

    As many settings as fit into half of the time are trained to a quarter. A line through the values at an eighth and
    at a quarter, over the logarithm of steps, predicts the end value. The best predicted setting is trained further.
    """
    left = seconds - asked(cell)
    order = [*cell.defaults(), *(one for one in cell.settings if one not in cell.defaults())]
    quarter, spent, tried = cell.cell.steps / 4, 0.0, []
    for setting in order:
        takes = cell.seconds(setting[0], quarter, 2 * cell.cut)
        if tried and spent + takes > left / 2:
            continue
        spent += takes
        (before, _), (now, loss) = cell.on_the_way(setting, quarter / 2), cell.on_the_way(setting, quarter)
        tried.append((min(1.0, now + 2 * (now - before)), -loss, setting))
    chosen = max(tried)[-1]
    steps = cell.steps(chosen[0], left - spent + quarter * cell.paces[chosen[0]]["step"], HELD_OUT)
    return cell.whole(chosen, steps) if steps >= 1 else None


POLICIES: Mapping[str, Policy] = {
    "race of seconds (before)": race,
    "successive halving by steps": halving,
    "Optuna's Hyperband": hyperband,
    "extrapolated curves": extrapolated,
}


def recorded(
    lines: Sequence[Mapping[str, Any]],
    cell: Cell,
    backbone: str = "embedded",
    *,
    beside: bool = False,
    fitted: bool = False,
) -> Recorded:
    """A cell of the records of one backbone, of the settings whose two lengths are there.

    beside  with the paces that were measured for both backbones on one machine
    fitted  with the fitted method
    """
    paces = _paces(lines, backbone, beside=beside)
    untrained = next(one["right"] for one in lines if one.get("untrained") == vars(cell))
    long, ends, short = {}, {}, {}
    for one in lines:
        if "curve" not in one or one["curve"]["cell"] != vars(cell):
            continue
        if one["curve"].get("backbone", "embedded") != backbone:
            continue
        setting = one["curve"]["method"], one["curve"]["rate"]
        last = one["points"][-1]
        diverged = last["validation"] is None
        kept = Kept(
            setting,
            0.0 if diverged else last["validation"],
            math.inf if diverged else last["loss"],
            np.zeros(HELD_OUT, bool) if diverged else unpacked(last["right"]),
        )
        if setting[0] == FITTED:
            ends[setting], short[setting], long[setting] = kept, (0, kept), [(1, kept.validation, kept.loss)]
        elif one["curve"]["steps"] < cell.steps:
            short[setting] = one["curve"]["steps"], replace(kept, whole=False)
        else:
            ends[setting] = kept
            long[setting] = [(p["step"], p["validation"] or 0.0, p["loss"] or math.inf) for p in one["points"]]
    asked = {(curve.method, curve.rate) for curve in curves(backbone) if fitted or curve.method != FITTED}
    both = [setting for setting in ends if setting in short and setting in asked]
    return Recorded(
        cell,
        {one: long[one] for one in both},
        {one: ends[one] for one in both},
        {one: short[one] for one in both},
        {name: unpacked(each) for name, each in untrained.items()},
        paces,
    )


def _paces(lines: Sequence[Mapping[str, Any]], backbone: str, *, beside: bool) -> dict[str, Mapping[str, float]]:
    """Seconds by method, the newest of the backbone. The fitted method opens as `head` does, and its step is a text.

    beside  also those that were measured beside another backbone
    """
    of_backbone = [one for one in lines if "paces" in one and one.get("backbone", "embedded") == backbone]
    found = next(one["paces"] for one in reversed(of_backbone) if beside or "backbone" not in one)
    head = found["head"]
    return {**found, FITTED: {**head, "step": head["text"]}}
