"""Recorded curves of both packaged backbones together: the learned order over backbones, and its regret.

    python benchmarks/several_backbones.py            the table of docs/background/choose.md
    python benchmarks/several_backbones.py --page     put it there
    python benchmarks/several_backbones.py --orders   what `afina.studies.choosing.recorded_curves` has built in

The fitted method comes before all others. Then the orders of both backbones are merged: each next setting is the one
that adds most held-out accuracy for its seconds to the settings before it, of which the best on the validation set is
kept. Seconds are those of both backbones on one machine. Each cell is judged with what was learnt from the other
domain.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from choose import MINUTES, PAGE, grid, points, regret
from learning_curves import ENCODER, KEPT, cells, read
from lessons import BACKBONES, KINDS, Names, backbone_of, is_fitted, named_setting, taught, together
from policies import ON, Setting
from replay import Policy, replayed

MARKS = re.compile(r"(<!-- begin: benchmarks/several_backbones.py -->\n).*?(<!-- end -->)", re.DOTALL)
OURS = "both backbones, by gain for time"


POLICIES: Mapping[str, Policy] = {
    OURS: replayed(BACKBONES),
    "both backbones, by gain alone": replayed(BACKBONES, timed=False),
    "embedded alone": replayed(("embedded",)),
    f"{ENCODER} alone": replayed((ENCODER,)),
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
        if one[0].endswith(f"{ON}{ENCODER}") or is_fitted(one)
    ]
    mine = taught(there)
    order = ", ".join(f"{_words(one)} ({100 * mine.each[backbone_of(one)].ahead[one]:+.1f})" for one in mine.order)
    counts = " and ".join(f"{each.counts:.0f} on {name}" for name, each in mine.each.items())
    said = (
        "The order over both backbones, and the points by which each setting is above the mean of the trained "
        f"settings on its backbone: {order}. This prior counts as so many validation texts: {counts}."
    )
    of_policies = grid(["policy", *(f"{minutes} minutes" for minutes in MINUTES)], rows)
    return f"{of_policies}\n{grid(heading, of_settings)}\n{said}\n"


def _words(one: Setting) -> str:
    method, _, backbone = one[0].partition(ON)
    return f"linear probe on {backbone}" if is_fitted(one) else f"{method} at {one[1]:g} on {backbone}"


@dataclass(frozen=True)
class BuiltIn:
    """What the curves of all cells teach, with the names and figures of `afina.studies.choosing.recorded_curves`."""

    order: tuple[Names, ...]
    orders: Mapping[str, tuple[Names, ...]]
    ahead: Mapping[Names, float]
    counts: Mapping[str, int]
    levels: Mapping[str, float]
    level_counts: int
    step_costs: Mapping[str, int]


def built_in(lines: Sequence[Mapping[str, Any]]) -> BuiltIn:
    """What the curves of all cells teach."""
    mine = taught([together(lines, cell) for cell in cells()])
    each = {KINDS[name]: one for name, one in mine.each.items()}
    return BuiltIn(
        tuple(map(named_setting, mine.order)),
        {kind: tuple(map(named_setting, one.order)) for kind, one in each.items()},
        {named_setting(name): round(float(value), 3) for one in each.values() for name, value in one.ahead.items()},
        {kind: int(round(one.counts, -1)) for kind, one in each.items()},
        {KINDS[name]: round(value, 3) for name, value in mine.levels.items()},
        int(round(mine.level_counts, -1)),
        _step_costs([one["paces"] for one in lines if "paces" in one]),
    )


def _step_costs(paces: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, int]:
    """The time of a step of each method, divided by the time of scoring a text: a mean over backbones and machines."""
    return {name: round(sum(one[name]["step"] / one[name]["text"] for one in paces) / len(paces)) for name in paces[0]}


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
