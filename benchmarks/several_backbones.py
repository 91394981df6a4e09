"""Recorded curves of both packaged backbones together: the learned order over backbones, and its regret.

    python benchmarks/several_backbones.py            the table of docs/background/choose.md
    python benchmarks/several_backbones.py --page     put it there
    python benchmarks/several_backbones.py --orders   what `afina.studies.choosing.learned_order` has built in

The order is greedy: each next setting is the one that adds most held-out accuracy for its seconds to the settings
before it, of which the best on the validation set is kept. The fitted method comes before all others. Seconds are those
of both backbones on one machine. Each cell is judged with what was learnt from the other domain.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from afina.methods import make
from choose import MINUTES, PAGE, grid, points, regret
from learning_curves import FITTED, HELD_OUT, KEPT, Cell, cells, read
from policies import ON, Kept, Learnt, Policy, Recorded, Setting, asked, by_validation, in_order, learnt, recorded

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


def by_time(known: Sequence[Recorded], *, timed: bool = True) -> list[Setting]:
    """Settings in greedy order: each adds most for its seconds, over cells, to the settings before it.

    Settings that add nothing come last, the best on the validation set first. timed: count the seconds.
    """
    there = [one for one in known[0].settings if all(one in each.ends for each in known)]
    order = [one for one in there if _is_fitted(one)]
    floor = float(np.mean([max(one.mean() for one in cell.untrained.values()) for cell in known]))

    def reached(settings: Sequence[Setting]) -> tuple[float, float]:
        if not settings:
            return floor, 0.0
        kept = [max((each.ends[one] for one in settings), key=by_validation) for each in known]
        return float(np.mean([one.right.mean() for one in kept])), float(np.mean([one.validation for one in kept]))

    def gains(one: Setting, before: float) -> tuple[float, float]:
        accuracy, validation = reached([*order, one])
        gain = accuracy - before
        return (gain / _seconds(known, one) if timed and gain > 0 else gain), validation

    while len(order) < len(there):
        before = reached(order)[0]
        order.append(max((one for one in there if one not in order), key=partial(gains, before=before)))
    return order


def _seconds(known: Sequence[Recorded], setting: Setting) -> float:
    """The seconds of a whole run, a mean over cells."""
    return float(np.mean([cell.seconds(setting[0], cell.cell.steps, cell.cut + HELD_OUT) for cell in known]))


def taught(known: Sequence[Recorded], *, timed: bool = True) -> Learnt:
    """What cells teach. Advantages are over the mean of the settings that are trained in steps."""
    trained = [
        replace(cell, ends={one: kept for one, kept in cell.ends.items() if not _is_fitted(one)}) for cell in known
    ]
    found = learnt(trained)
    ahead = dict(found.ahead)
    for one in known[0].settings:
        if _is_fitted(one):
            each = [
                cell.ends[one].right.mean() - np.mean([kept.right.mean() for kept in mine.ends.values()])
                for cell, mine in zip(known, trained, strict=True)
            ]
            ahead[one] = float(np.mean(each))
    several = len({one[0].partition(ON)[2] for one in known[0].settings}) > 1
    fitted = [one for one in known[0].settings if _is_fitted(one)]
    order = by_time(known, timed=timed) if several else [*fitted, *found.order]
    return Learnt(order, ahead, found.counts)


def policy(backbones: Sequence[str], *, timed: bool = True) -> Policy:
    """Whole runs on these backbones, of which the best by validation and by what was to be expected is kept."""

    def kept(cell: Recorded, seconds: float, known: Sequence[Recorded]) -> Kept | None:
        mine = taught([_only(one, backbones) for one in known], timed=timed)
        return in_order(cell, seconds - asked(cell), mine.order, standing=mine.standing(cell))

    return kept


def _only(cell: Recorded, backbones: Sequence[str]) -> Recorded:
    ends = {one: kept for one, kept in cell.ends.items() if one[0].partition(ON)[2] in backbones}
    return replace(cell, ends=ends)


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
    order = ", ".join(f"{_words(one)} ({100 * mine.ahead[one]:+.1f})" for one in mine.order)
    said = (
        "The order over both backbones, and the points by which each setting is above the mean of the trained "
        f"settings: {order}. This prior counts as {mine.counts:.0f} validation texts."
    )
    of_policies = grid(["policy", *(f"{minutes} minutes" for minutes in MINUTES)], rows)
    return f"{of_policies}\n{grid(heading, of_settings)}\n{said}\n"


def _words(one: Setting) -> str:
    method, _, backbone = one[0].partition(ON)
    return f"linear probe on {backbone}" if _is_fitted(one) else f"{method} at {one[1]:g} on {backbone}"


Built = tuple[list[tuple[str, str, float]], dict[tuple[str, str, float], float], int]
"""Order, advantages and weight in the form of `LearnedOrder`."""


def built_in(lines: Sequence[Mapping[str, Any]], backbones: Sequence[str]) -> Built:
    """What these backbones' curves teach, in the form of `LearnedOrder`."""
    known = [together(lines, cell, backbones) for cell in cells()]
    mine = taught(known)

    def setting(one: Setting) -> tuple[str, str, float]:
        method, _, backbone = one[0].partition(ON)
        factor = 1.0 if _is_fitted(one) else one[1] / make(method).learning_rate
        near = min((1 / 3, 1.0, 3.0, 10.0), key=lambda each: abs(np.log(each / factor)))
        return KINDS[backbone], method, near

    ahead = {setting(one): round(mine.ahead[one], 3) for one in mine.order}
    return [*map(setting, mine.order)], ahead, int(round(mine.counts, -1))


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
        for backbones in (("embedded",), ("minilm",), BACKBONES):
            order, ahead, counts = built_in(lines, backbones)
            print(backbones, counts)
            for one in order:
                print(f"    {one}: {ahead[one]},")
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
