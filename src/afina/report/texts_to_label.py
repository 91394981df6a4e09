"""The texts to label next in words: how many were chosen for which reason, and the accuracy on random texts."""

from __future__ import annotations

import shlex
from math import isnan
from pathlib import Path
from typing import Any

from afina.report.formatting import figure_with_interval, listed, metric_name, number_of_texts
from afina.sentence import Sentence
from afina.studies.labelling.next_texts import CHOSEN, FEWEST, NextTexts, RandomSample

_CELL = 'JSON such as [{"start": 0, "end": 5, "label": "PER"}], or with [] if a text has no entity'


def sentences(found: NextTexts, out: Path, labelled: Path | None, protected: int) -> list[str]:
    """Return what was chosen and what to do with the file; `protected` cells got an apostrophe."""
    counts = listed([f"{count:,} {reason}" for reason, count in found.counts.items()])
    said = [f"{out}: {number_of_texts(len(found))} to label: {counts} (column {CHOSEN!r})."]
    if protected:
        said.append(
            f"{protected:,} cell{'s' * (protected != 1)} of texts could be read as a formula by a spreadsheet, and "
            f"begin{'s' * (protected == 1)} with an added apostrophe."
        )
    said.append(_next_step(found, out, labelled))
    if found.sample is not None:
        said.append(sample_sentence(found.sample))
    return said


def _next_step(found: NextTexts, out: Path, labelled: Path | None) -> str:
    columns = listed([repr(name) for name in found.labels])
    if out.suffix.lower() == ".json":
        project = f"whose text is ${found.text}, and whose control for labels is named {found.labels[0]!r}"
        return f"Import it into a project of Label Studio {project}."
    fill: str = f"Fill the column{'s' * (len(found.labels) > 1)} {columns}"
    if found.of_words:
        declared = "Give `out` FILE.json to mark the entities in Label Studio. Or fill the column {columns} with {cell}"
        fill = Sentence.of(declared, columns=columns, cell=_CELL)
    if labelled is None:
        then = Sentence.of("; then the file can be given with `task`, and with `labelled` for the next texts.")
        return Sentence([fill, then])
    if not found.continues or labelled.suffix.lower() != ".csv":
        return Sentence([fill, f", and add the rows to {labelled}, with the column {CHOSEN!r}."])
    add = f"tail -n +2 {shlex.quote(str(out))} >> {shlex.quote(str(labelled))}"
    return Sentence([fill, f", and add the rows to {labelled}: {add}"])


def sample_sentence(sample: RandomSample) -> str:
    texts = f"{number_of_texts(sample.texts)} drawn at random"
    if sample.estimate is None:
        verb = "has" if sample.texts == 1 else "have"
        return f"{texts} {verb} a label; with {FEWEST} such texts or more, {metric_name(sample.metric)} is estimated."
    mean, interval = sample.estimate.mean, sample.estimate.interval
    shown = figure_with_interval(sample.metric, mean, None if isnan(interval.low) else interval.ends)
    return (
        f"{metric_name(sample.metric)} on all texts, estimated on {texts}: {shown}, by a linear probe fitted to the "
        f"{sample.trained_on:,} other labelled texts."
    )


def as_json(found: NextTexts, out: Path) -> dict[str, Any]:
    made: dict[str, Any] = {"out": str(out), "texts": len(found), "chosen": found.counts, "notes": list(found.notes)}
    both = zip(found.texts, found.chosen, strict=True)
    made["rows"] = [{"text": one.text, "text_pair": one.text_pair, CHOSEN: why} for one, why in both]
    if (sample := found.sample) is not None:
        made["random"] = {"texts": sample.texts, "metric": sample.metric, "trained_on": sample.trained_on}
        made["random"]["words"] = sample_sentence(sample)
        if (one := sample.estimate) is not None:
            ends = None if isnan(one.interval.low) else list(one.interval.ends)
            made["random"] |= {"value": one.mean, "interval": ends}
    return made
