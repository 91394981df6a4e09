"""Recorded curves of both packaged backbones together: the learned order over backbones, and its regret.

    python benchmarks/several_backbones.py            the table of docs/background/choose.md
    python benchmarks/several_backbones.py --page     put it there
    python benchmarks/several_backbones.py --orders   what `afina.studies.choosing.learned_order` has built in

The fitted method comes before all others. Then the orders of both backbones are merged: each next setting is the one
that adds most held-out accuracy for its seconds to the settings before it, of which the best on the validation set is
kept. Seconds are those of both backbones on one machine. Each cell is judged with what was learnt from the other
domain.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from afina.methods import make
from afina.studies.choosing.candidates import backbone_levels
from choose import MINUTES, PAGE, grid, points, regret
from learning_curves import FITTED, HELD_OUT, KEPT, Cell, cells, read
from policies import (
    MOST_COUNTS,
    ON,
    Kept,
    Learnt,
    Order,
    Policy,
    Recorded,
    Setting,
    Standing,
    asked,
    by_validation,
    in_order,
    learnt,
    recorded,
)

BACKBONES = ("embedded", "minilm")
KINDS = {"embedded": "causal", "minilm": "encoder"}
MARKS = re.compile(r"(<!-- begin: benchmarks/several_backbones.py -->\n).*?(<!-- end -->)", re.DOTALL)
OURS = "both backbones, by gain for time"


def together(lines: Sequence[Mapping[str, Any]], cell: Cell, backbones: Sequence[str] = BACKBONES) -> Recorded:
    """A cell whose settings are methods on backbones, called as in `choose`."""
    parts = [_named(recorded(lines, cell, backbone, beside=True), backbone) for backbone in backbones]
    first = parts[0]
    merged = {
        name: {key: value for part in parts for key, value in getattr(part, name).items()}
        for name in ("long", "ends", "short", "paces")
    }
    return replace(first, **merged)


def _named(cell: Recorded, backbone: str) -> Recorded:
    """The same cell with the backbone in the name of each method."""

    def called(method: str) -> str:
        return f"{method}{ON}{backbone}"

    ends = {
        (called(method), rate): replace(kept, setting=(called(method), rate))
        for (method, rate), kept in cell.ends.items()
    }
    return replace(
        cell,
        ends=ends,
        long={(called(method), rate): points for (method, rate), points in cell.long.items()},
        short={
            (called(method), rate): (steps, replace(kept, setting=(called(method), rate)))
            for (method, rate), (steps, kept) in cell.short.items()
        },
        paces={called(method): pace for method, pace in cell.paces.items()},
    )


def _is_fitted(setting: Setting) -> bool:
    return setting[0].startswith(FITTED)


def by_time(known: Sequence[Recorded], orders: Sequence[Sequence[Setting]], *, timed: bool = True) -> list[Setting]:
    """Merge the orders of backbones: each next setting is the one that adds most for its seconds, over cells.

    Of the settings so far, the best on the validation set is kept. Of settings that add nothing, the cheapest is next.
    timed: count the seconds.
    """
    order = [one for one in known[0].settings if _is_fitted(one)]
    rest = [[one for one in each if not _is_fitted(one)] for each in orders]

    def reached(settings: Sequence[Setting]) -> float:
        kept = [max((each.ends[one] for one in settings), key=by_validation) for each in known]
        return float(np.mean([one.right.mean() for one in kept]))

    def gains(one: Setting, before: float) -> tuple[float, float]:
        gain, seconds = reached([*order, one]) - before, _seconds(known, one)
        return (max(gain, 0.0) / (seconds if timed else 1.0), -seconds)

    while any(rest):
        before = reached(order)
        following = [each for each in rest if each]
        chosen = max(following, key=lambda each: gains(each[0], before))
        order.append(chosen.pop(0))
    return order


def _seconds(known: Sequence[Recorded], setting: Setting) -> float:
    """The seconds of a whole run, a mean over cells."""
    return float(np.mean([cell.seconds(setting[0], cell.cell.steps, cell.cut + HELD_OUT) for cell in known]))


@dataclass(frozen=True)
class LearntOver:
    """What cells teach of several backbones: what is learnt of each, and the order over all."""

    each: Mapping[str, Learnt]
    order: Sequence[Setting]
    levels: Mapping[str, float]
    level_counts: float

    def standing(self, cell: Recorded) -> Standing:
        """Rank as in `afina.studies.choosing.candidates`: the prior is of each backbone, around its own level."""

        def of_all(kept: Sequence[Kept]) -> Callable[[Kept], Order]:
            whole = all(one.whole for one in kept)
            residuals: dict[str, list[float]] = {}
            for one in kept:
                name = _backbone(one.setting)
                residuals.setdefault(name, []).append(one.validation - self.each[name].ahead[one.setting])
            counts = {name: mine.counts for name, mine in self.each.items()}
            levels = backbone_levels(residuals, counts, self.levels, self.level_counts, cell.cut) if kept else {}

            def stands(one: Kept) -> Order:
                if not whole:
                    return one.order
                mine = self.each[_backbone(one.setting)]
                prior = levels[_backbone(one.setting)] + mine.ahead[one.setting]
                weighed = (cell.cut * one.validation + mine.counts * prior) / (cell.cut + mine.counts)
                return float(weighed), -one.loss

            return stands

        return of_all


def taught(known: Sequence[Recorded], *, timed: bool = True) -> LearntOver:
    """What cells teach of the backbones that they have."""
    backbones = dict.fromkeys(_backbone(one) for one in known[0].settings)
    each = {name: _of_one([_only(cell, [name]) for cell in known]) for name in backbones}
    orders = [each[name].order for name in backbones]
    order = by_time(known, orders, timed=timed) if len(orders) > 1 else orders[0]
    return LearntOver(each, order, *_levels(known, [*backbones]))


def _levels(known: Sequence[Recorded], backbones: Sequence[str]) -> tuple[dict[str, float], float]:
    """Each backbone's mean accuracy beside the mean of all, and its weight in texts, as `_counts` has it for settings.

    The weight is the variance of an answer on one text, divided by the variance of a backbone's level between cells.
    """
    settings = [one for one in known[0].settings if not _is_fitted(one)]
    right = np.array([[cell.ends[one].right for one in settings] for cell in known], float)
    names = np.array([_backbone(one) for one in settings])
    means = np.stack([right[:, names == name].mean(axis=(1, 2)) for name in backbones], axis=1)
    beside = means - means.mean(axis=1, keepdims=True)
    levels = dict(zip(backbones, beside.mean(axis=0).tolist(), strict=True))
    rest = right - right.mean(1, keepdims=True) - right.mean(2, keepdims=True) + right.mean((1, 2), keepdims=True)
    of_a_text = float((rest**2).sum()) / (len(known) * (len(settings) - 1) * (right.shape[2] - 1))
    freedom = max(1, (len(known) - 1) * (len(backbones) - 1))
    between = float(((beside - beside.mean(axis=0)) ** 2).sum()) / freedom
    return levels, min(MOST_COUNTS, of_a_text / max(between, 1e-9))


def _of_one(known: Sequence[Recorded]) -> Learnt:
    """What cells teach of one backbone. Advantages are over the mean of the settings that are trained in steps."""
    fitted = [one for one in known[0].settings if _is_fitted(one)]
    trained = [
        replace(cell, ends={one: kept for one, kept in cell.ends.items() if one not in fitted}) for cell in known
    ]
    found = learnt(trained)
    means = [np.mean([kept.right.mean() for kept in mine.ends.values()]) for mine in trained]
    ahead = {
        one: float(np.mean([cell.ends[one].right.mean() - mean for cell, mean in zip(known, means, strict=True)]))
        for one in fitted
    }
    return Learnt([*fitted, *found.order], {**found.ahead, **ahead}, found.counts)


def policy(backbones: Sequence[str], *, timed: bool = True) -> Policy:
    """Whole runs on these backbones, of which the best by validation and by what was to be expected is kept."""

    def kept(cell: Recorded, seconds: float, known: Sequence[Recorded]) -> Kept | None:
        mine = taught([_only(one, backbones) for one in known], timed=timed)
        return in_order(cell, seconds - asked(cell), mine.order, standing=mine.standing(cell))

    return kept


def _only(cell: Recorded, backbones: Sequence[str]) -> Recorded:
    return replace(cell, ends={one: kept for one, kept in cell.ends.items() if _backbone(one) in backbones})


def _backbone(setting: Setting) -> str:
    return setting[0].partition(ON)[2]


POLICIES: Mapping[str, Policy] = {
    OURS: policy(BACKBONES),
    "both backbones, by gain alone": policy(BACKBONES, timed=False),
    "embedded alone": policy(("embedded",)),
    "minilm alone": policy(("minilm",)),
}


def tables(lines: Sequence[Mapping[str, Any]], scale: float = 1.0) -> str:
    """The tables of policies and of settings, and the order that was learnt from all cells."""
    there = [together(lines, cell) for cell in cells()]
    rows = []
    for name, each in POLICIES.items():
        found = [points(regret(each, there, minutes * scale)) for minutes in MINUTES]
        rows.append([f"**{name}**" if name == OURS else name, *found])
    heading = ["", *(f"{cell.cell.domain}, {cell.cell.size:,}" for cell in there)]
    settings = [one for one in there[0].settings if all(one in cell.ends for cell in there)]
    of_settings = [
        [f"{_words(one)}", *(f"{cell.ends[one].right.mean():.3f}" for cell in there)]
        for one in settings
        if one[0].endswith(f"{ON}minilm") or _is_fitted(one)
    ]
    mine = taught(there)
    order = ", ".join(f"{_words(one)} ({100 * mine.each[_backbone(one)].ahead[one]:+.1f})" for one in mine.order)
    counts = " and ".join(f"{each.counts:.0f} on {name}" for name, each in mine.each.items())
    said = (
        "The order over both backbones, and the points by which each setting is above the mean of the trained "
        f"settings on its backbone: {order}. This prior counts as so many validation texts: {counts}."
    )
    of_policies = grid(["policy", *(f"{minutes} minutes" for minutes in MINUTES)], rows)
    return f"{of_policies}\n{grid(heading, of_settings)}\n{said}\n"


def _words(one: Setting) -> str:
    method, _, backbone = one[0].partition(ON)
    return f"linear probe on {backbone}" if _is_fitted(one) else f"{method} at {one[1]:g} on {backbone}"


Names = tuple[str, str, float]
"""A setting in the form of `learned_order`: the kind of backbone, the method, and the factor of its default rate."""


@dataclass(frozen=True)
class BuiltIn:
    """What the curves of all cells teach, with the names and figures of `afina.studies.choosing.learned_order`."""

    order: tuple[Names, ...]
    orders: Mapping[str, tuple[Names, ...]]
    ahead: Mapping[Names, float]
    counts: Mapping[str, int]
    levels: Mapping[str, float]
    level_counts: int


def built_in(lines: Sequence[Mapping[str, Any]]) -> BuiltIn:
    """What the curves of all cells teach."""
    mine = taught([together(lines, cell) for cell in cells()])
    each = {KINDS[name]: one for name, one in mine.each.items()}
    return BuiltIn(
        tuple(map(_named_setting, mine.order)),
        {kind: tuple(map(_named_setting, one.order)) for kind, one in each.items()},
        {_named_setting(name): round(float(value), 3) for one in each.values() for name, value in one.ahead.items()},
        {kind: int(round(one.counts, -1)) for kind, one in each.items()},
        {KINDS[name]: round(value, 3) for name, value in mine.levels.items()},
        int(round(mine.level_counts, -1)),
    )


def _named_setting(one: Setting) -> Names:
    method, _, backbone = one[0].partition(ON)
    factor = 1.0 if _is_fitted(one) else one[1] / make(method).learning_rate
    near = min((1 / 3, 1.0, 3.0, 10.0), key=lambda each: abs(float(np.log(each / factor))))
    return KINDS[backbone], method, near


def main() -> None:
    """Run the benchmark with the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--curves", type=Path, default=KEPT, help="a file of `learning_curves.py`")
    parser.add_argument("--scale", type=float, default=1.0, help="how many times as fast as the paces the machine is")
    parser.add_argument("--page", action="store_true", help="put the tables into docs/background/choose.md")
    parser.add_argument("--orders", action="store_true", help="print the learned orders")
    options = parser.parse_args()
    lines = read(options.curves)
    if options.orders:
        made = built_in(lines)
        for name, value in vars(made).items():
            print(
                name, *(value.items() if isinstance(value, dict) else value if name == "order" else [value]), sep="\n  "
            )
        return
    text = tables(lines, options.scale)
    print(text)
    if options.page:
        page = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(MARKS.sub(lambda marks: f"{marks[1]}\n{text}\n{marks[2]}", page), encoding="utf-8")
    there = [together(lines, cell) for cell in cells()]
    found = {str(minutes): regret(POLICIES[OURS], there, minutes * options.scale).mean for minutes in MINUTES}
    print(json.dumps({"regret": {minutes: round(value, 4) for minutes, value in found.items()}}))


if __name__ == "__main__":
    main()
