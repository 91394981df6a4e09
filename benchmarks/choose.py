"""The regret of the recommendations of `afina choose`, and of other policies, on recorded learning curves.

    python benchmarks/choose.py                docs/learning-curves.jsonl, which `learning_curves.py` records
    python benchmarks/choose.py --markdown FILE

Regret is a difference of two held-out accuracies: that of the setting with the best validation score at the full
budget, minus that of the model that a policy keeps in the given minutes. If a baseline or the untrained model is better
than one of the two models, it replaces that model. Each cell is judged with what the policy learnt from the other
domain. The last line is JSON, for the policy of `afina choose`.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from learning_curves import FITTED, KEPT, cells, read
from lessons import together
from policies import POLICIES, Recorded, learnt, recorded
from policies import Policy as OfSeconds
from replay import Policy, replayed

MINUTES = (5, 10, 30)
SLOWER = (1, 3, 10)
"""How many times as slow as measured the machines of the second table are."""

PAGE = KEPT.parent / "background" / "choose.md"
MARKS = re.compile(r"(<!-- begin: benchmarks/choose.py -->\n).*?(<!-- end -->)", re.DOTALL)
OURS, BY_VALIDATION = "whole runs in a learnt order", "the same, selected by validation alone"
ONE = ("embedded",)


@dataclass(frozen=True)
class Regret:
    """For each cell and held-out text, best minus kept: float [N] of -1, 0 and 1."""

    by_cell: Mapping[str, np.ndarray]

    @property
    def mean(self) -> float:
        """The mean regret over cells with equal weights."""
        return float(np.mean([one.mean() for one in self.by_cell.values()]))

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval over other held-out texts; cells and trained models are fixed."""
        variance = sum(one.var(ddof=1) / len(one) for one in self.by_cell.values()) / len(self.by_cell) ** 2
        half = 1.96 * float(np.sqrt(variance))
        return self.mean - half, self.mean + half


def handed_over(cell: Recorded, right: np.ndarray | None) -> np.ndarray:
    """The predictions of the recommended model: the best untrained model if it is at least as good."""
    simple = max(cell.untrained.values(), key=lambda one: float(one.mean()))
    return simple if right is None or right.mean() <= simple.mean() else right


def of_seconds(policy: OfSeconds) -> Policy:
    """A policy that is not the code of `choose`: 3 % of the time are kept back, and the untrained model is known."""

    def handed(cell: Recorded, minutes: float, known: Sequence[Recorded]) -> np.ndarray:
        kept = policy(cell, 60 * minutes * 0.97, known)
        return handed_over(cell, None if kept is None else kept.right)

    return handed


def regret(policy: Policy, there: Sequence[Recorded], minutes: float) -> Regret:
    """The regret of a policy in each cell, tuned on the cells of other domains."""
    found = {}
    for cell in there:
        known = [one for one in there if one.cell.domain != cell.cell.domain]
        mine = policy(cell, minutes, known)
        trained = (kept for (method, _), kept in cell.ends.items() if not method.startswith(FITTED))
        best = max(trained, key=lambda one: one.order)
        name = f"{cell.cell.domain}, {cell.cell.size:,} texts"
        found[name] = handed_over(cell, best.right).astype(float) - mine.astype(float)
    return Regret(found)


def grid(heading: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    marks = ["---", *["---:"] * (len(heading) - 1)]
    return "".join("| " + " | ".join(line) + " |\n" for line in (heading, marks, *lines))


def points(one: Regret) -> str:
    """`1.2 (0.3 to 2.1)`."""
    low, high = one.interval
    return f"{100 * one.mean:.1f} ({100 * low:.1f} to {100 * high:.1f})"


def of_policies(there: Sequence[Recorded], named: Sequence[Recorded], scale: float) -> str:
    """The table."""
    rows = [(name, of_seconds(policy), there) for name, policy in POLICIES.items()]
    rows += [(f"**{OURS}**", replayed(ONE), named), (BY_VALIDATION, replayed(ONE, prior=False), named)]
    lines = [[name, *(points(regret(each, on, one * scale)) for one in MINUTES)] for name, each, on in rows]
    return grid(["policy", *(f"{minutes} minutes" for minutes in MINUTES)], lines)


def of_slow_machines(named: Sequence[Recorded]) -> str:
    """The table of the policy of `afina choose` on slower machines."""
    lines = [
        [
            "as measured" if slower == 1 else f"{slower} times as slow",
            *(points(regret(replayed(ONE, slower), named, one)) for one in MINUTES[:2]),
        ]
        for slower in SLOWER
    ]
    return grid(["machine", *(f"{minutes} minutes" for minutes in MINUTES[:2])], lines)


def of_products(named: Sequence[Recorded]) -> str:
    """The table of the policy of `afina choose` with products in int8, at speeds that were measured for LoRA."""
    machines = [
        ("bfloat16, as measured", 1.0, None),
        ("the same, products in int8, a LoRA step 1.15 times as fast", 1.0, 1.15),
        ("no native bfloat16, twice as slow", 2.0, None),
        ("the same, products in int8, a LoRA step 2.4 times as fast", 2.0, 2.4),
    ]
    lines = [
        [name, *(points(regret(replayed(ONE, slower, faster=faster), named, one)) for one in MINUTES[:2])]
        for name, slower, faster in machines
    ]
    return grid(["machine", *(f"{minutes} minutes" for minutes in MINUTES[:2])], lines)


def of_settings(there: Sequence[Recorded]) -> str:
    """The table of held-out accuracies at the full budget, by setting and cell."""
    settings = [one for one in there[0].settings if all(one in cell.ends for cell in there)]
    lines = [
        [f"{method}, {rate:g}", *(f"{cell.ends[method, rate].right.mean():.3f}" for cell in there)]
        for method, rate in settings
    ]
    lines += [[name, *(f"{cell.untrained[name].mean():.3f}" for cell in there)] for name in there[0].untrained]
    return grid(["", *(f"{cell.cell.domain}, {cell.cell.size:,}" for cell in there)], lines)


def tables(there: Sequence[Recorded], named: Sequence[Recorded], scale: float = 1.0) -> str:
    """The tables of policies and settings, and the order learnt from all cells. scale: the machine's speed."""
    taught = learnt(there)
    order = ", ".join(
        f"{method} at {rate:g} ({100 * taught.ahead[method, rate]:+.1f})" for method, rate in taught.order
    )
    said = (
        "The order of the settings, learnt from all four columns, and the points by which each is above the mean "
        f"setting: {order}. This prior counts as {taught.counts:.0f} validation texts."
    )
    found = of_policies(there, named, scale), of_slow_machines(named), of_products(named), of_settings(there), said
    return "\n".join(found) + "\n"


def on_one_backbone(lines: Sequence[Mapping[str, Any]]) -> list[Recorded]:
    """The cells with the fitted method, as `afina choose` itself meets them."""
    return [together(lines, cell, ONE, beside=False) for cell in cells()]


def main() -> None:
    """Run the benchmark with the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--curves", type=Path, default=KEPT, help="a file of `learning_curves.py`")
    parser.add_argument("--scale", type=float, default=1.0, help="how many times as fast as the paces the machine is")
    parser.add_argument("--markdown", type=Path, help="write the tables there")
    parser.add_argument("--page", action="store_true", help="put them between the marks of docs/background/choose.md")
    options = parser.parse_args()
    lines = read(options.curves)
    there, named = [recorded(lines, cell) for cell in cells()], on_one_backbone(lines)
    text = tables(there, named, options.scale)
    print(text)
    if options.markdown:
        options.markdown.write_text(text, encoding="utf-8")
    if options.page:
        page = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(MARKS.sub(lambda marks: f"{marks[1]}\n{text}\n{marks[2]}", page), encoding="utf-8")
    found = {minutes: regret(replayed(ONE), named, minutes * options.scale) for minutes in MINUTES}
    by_task = {
        name: {str(minutes): round(float(one.by_cell[name].mean()), 4) for minutes, one in found.items()}
        for name in found[MINUTES[0]].by_cell
    }
    print(json.dumps({"regret": {str(m): round(one.mean, 4) for m, one in found.items()}, "by_task": by_task}))


if __name__ == "__main__":
    main()
