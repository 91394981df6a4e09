"""One study on each snippet task of another kind, and the score of a bag of words on the same texts.

`python benchmarks/tasks.py` writes its part of docs/reference/tasks.md to standard output. Results that are recorded
under results/tasks are not computed again. `--only ratings` runs one task. `--curve` runs only the learning curve, and
writes its plot to docs/pictures/curve-light.svg and curve-dark.svg.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from afina import Lines, Study, Task
from afina.models import objectives
from afina.report import formatting, verdicts
from afina.report.plots import svg
from afina.report.plots.learning_curve import learning_curves as plotted
from afina.report.report import Report
from afina.report.verdicts import verdict_table
from afina.report.writers.markdown import table
from afina.studies.choosing import floors
from afina.studies.results import Results
from pictures import THEMES, standalone

OUT, PICTURES = Path("results") / "tasks", Path("docs") / "pictures"
TASKS = ("ratings", "domains", "movies-3", "pairs")
METHODS = ("full", "lora", "ia3", "head")
TRAIN, EVALUATION, EPOCHS, SEEDS = 256, 300, 2, (0,)
CURVE = {"task": "snippets:products", "sizes": (32, 128, 512), "methods": ("full", "lora", "head")}


def study(task: str) -> Study:
    """The methods on a task, each at its default rate."""
    content = {
        "name": task,
        "backbone": "embedded",
        "task": f"snippets:{task}",
        "seeds": SEEDS,
        "data": {"train_examples": TRAIN, "evaluation_examples": EVALUATION},
        "train": {"epochs": EPOCHS},
        "methods": {name: {} for name in METHODS},
    }
    return Study.parse(content, task)


def curve() -> Study:
    """Three sizes with equal steps."""
    content = {
        "name": "curve",
        "backbone": "embedded",
        "task": CURVE["task"],
        "seeds": SEEDS,
        "sizes": CURVE["sizes"],
        "data": {"evaluation_examples": EVALUATION},
        "train": {"epochs": 1},
        "methods": {name: {} for name in CURVE["methods"]},
    }
    return Study.parse(content, "curve")


def bag_of_words(task: str) -> dict[str, float]:
    """Figures of TF-IDF under a linear model, learnt from and evaluated on a study's texts."""
    texts = Task.load(f"snippets:{task}", train_examples=TRAIN, evaluation_examples=EVALUATION)
    objective = objectives.make(texts.label_names, {"kind": texts.kind}).of(texts.train.labels)
    return objective.metrics(floors.tfidf(texts.train, objective).predictions(texts.evaluation))


def page(task: str, results: Results) -> str:
    """A section: the table, the bag of words, the ceiling, verdicts and what it comes to."""
    made = Report.of(results)
    record = made.arms[0].record
    words, verdicts = bag_of_words(task), verdict_table(made.verdicts)
    names = formatting.metrics_of(record)[:2]
    beside = " and ".join(f"{formatting.metric_name(name)} {words[name]:.4f}" for name in names)
    human = [f"{formatting.metric_name(name)} {record.ceiling[name]:.4f}" for name in names if name in record.ceiling]
    assert verdicts is not None
    return "\n\n".join(
        [
            f"#### `snippets:{task}`",
            table(made.tables[0]),
            f"On the same texts of `snippets:{task}`, {floors.FLOORS[record.kind].learned} has {beside}."
            + (f" A single human has {' and '.join(human)} on `snippets:{task}`." if human else ""),
            table(verdicts),
            " ".join(made.sentences),
        ]
    )


def main() -> None:
    """Run, and print the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=TASKS)
    parser.add_argument("--curve", action="store_true")
    asked = parser.parse_args()
    watcher = Lines(lambda line: print(line, file=sys.stderr, flush=True))
    if asked.curve:
        made = Report.of(curve().run(OUT / "curve", watcher))
        made.write()
        found = verdicts.learning_curve_table(made.arms)
        assert found is not None
        with svg.drawing():
            plot = plotted(made.arms)
        for theme in THEMES:
            (PICTURES / f"curve-{theme}.svg").write_text(standalone(plot, theme), encoding="utf-8")
        print(table(found), " ".join(made.sentences), sep="\n\n")
        return
    for task in [asked.only] if asked.only else TASKS:
        results = study(task).run(OUT / task, watcher)
        Report.of(results).write()
        print(page(task, results), flush=True)


if __name__ == "__main__":
    main()
