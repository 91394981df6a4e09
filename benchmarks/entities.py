"""Token classification on the development set of WNUT 17: methods on both packaged backbones, and baselines.

    python benchmarks/entities.py
    python benchmarks/entities.py --set backbones=["minilm"] --out results/entities-minilm

The study is `benchmarks/entities.toml`; `--set` changes fields of the file. A study that was interrupted goes on in
`--out`. The table has the entity F1 of each method on each backbone, with its interval over sentences and seeds, the
verdict against the best baseline without a language model, the minutes of a training, and the memory of its process.
The second table has the verdicts between the methods. The last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import tables
from afina import Lines, Study
from afina.report.arms import Arm, arms
from afina.report.verdicts import verdicts
from afina.stats.comparison import compare
from afina.stats.metrics import METRICS
from afina.studies.results import Results

STUDY = Path(__file__).with_name("entities.toml")
PRECISION, RECALL, PARTIAL = "entity_precision", "entity_recall", "partial_f1"


def figures_of(arm: Arm) -> dict[str, Any]:
    """Return the metrics, minutes and memory of a method, each the mean over its seeds."""
    metric = arm.record.metric
    names = [name for name in (metric, PRECISION, RECALL, PARTIAL) if name in arm.record.metrics]
    peaks = [one.memory.rss_peak for one in arm.records if one.memory.rss_peak is not None]
    return {
        **{name: float(np.mean([one.metrics[name] for one in arm.records])) for name in names},
        "interval": arm.interval(metric),
        "train_examples": arm.size,
        "seconds": float(np.mean([one.seconds.train for one in arm.records])),
        "rss_peak": max(peaks, default=None),
    }


def against_baselines(results: Results, every: Sequence[Arm]) -> dict[str, dict[str, Any]]:
    """Return the paired comparison of each method with the best baseline, by the method's label."""
    metric = METRICS[every[0].record.metric]
    best = max(results.baselines, key=lambda one: one.record.metrics[metric.name])
    found = {}
    for arm in every:
        scores = np.tile(best.values(metric.name), (len(arm.seeds), 1))
        (one,) = compare({arm.label: arm.scores, best.record.name: scores}, metric=metric)
        found[arm.label] = {
            "baseline": best.record.name,
            "points": 100 * one.difference,
            "interval": [100 * one.interval.low, 100 * one.interval.high],
            "verdict": one.verdict,
        }
    return found


def rows_of(results: Results, every: Sequence[Arm], against: dict[str, dict[str, Any]]) -> list[list[str]]:
    """Return the rows of the table, the baselines first, and each group by rising entity F1."""
    metric = every[0].record.metric
    rows = [
        [one.record.name, *_shares(one.record.metrics, metric), "", f"{one.record.seconds / 60:.1f}", "–"]
        for one in sorted(results.baselines, key=lambda one: one.record.metrics[metric])
    ]
    for arm in sorted(every, key=lambda one: one.headline):
        made, other = figures_of(arm), against.get(arm.label)
        low, high = made["interval"] or (float("nan"),) * 2
        name, f1, *others = arm.label, *_shares(made, metric)
        f1 += f" ({100 * low:.1f} to {100 * high:.1f})"
        told = f"{other['verdict']}, {other['points']:+.1f}" if other else ""
        rows.append([name, f1, *others, told, f"{made['seconds'] / 60:.1f}", tables.size(made["rss_peak"])])
    return rows


def _shares(metrics: Any, metric: str) -> list[str]:
    return [f"{100 * metrics[name]:.1f}" for name in (metric, PRECISION, RECALL, PARTIAL)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Execute the study, and print its tables and a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", action="append", default=[], dest="changes", metavar="KEY=VALUE")
    parser.add_argument("--out", default="results/entities")
    asked = parser.parse_args(arguments)
    results = Study.load(STUDY, asked.changes).run(asked.out, watcher=Lines(print))
    every = arms(results.results, results.backbones)
    against = against_baselines(results, every) if results.baselines else {}
    heads = ("", "entity F1", "precision", "recall", "partial F1", "against the best baseline", "minutes", "memory")
    print(tables.table(heads, rows_of(results, every, against)))
    between = verdicts(every).compared
    print()
    print(
        tables.table(
            ("methods", "verdict", "difference in points", "interval"),
            [
                [
                    f"{one.first} against {one.second}",
                    one.verdict,
                    f"{100 * one.difference:+.1f}",
                    f"{100 * one.interval.low:+.1f} to {100 * one.interval.high:+.1f}",
                ]
                for one in between
            ],
        )
    )
    baselines = {one.record.name: {**one.record.metrics, "seconds": one.record.seconds} for one in results.baselines}
    made = {arm.label: {**figures_of(arm), "against": against.get(arm.label)} for arm in every}
    failed = [f"{one.name}: {one.error}" for one in results.failed]
    print(json.dumps({"baselines": baselines, "arms": made, "failed": failed}))


if __name__ == "__main__":
    main()
