"""How a task was read, how many texts there were to learn from and to evaluate, and whether that is enough. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from afina.data.kinds import columns_in_words
from afina.report.arms import Arm
from afina.report.words import count, number_of_texts, too_few
from afina.studies.runs.spec import Data


def split_of(task: str, train: int, held_out: int) -> str:
    """`reviews.csv: 240 texts to train on, 60 held out`."""
    return f"{Path(task).name}: {number_of_texts(train)} to train on, {count(held_out)} held out"


def cut(truncated: int, texts: int, max_length: int | None) -> str:
    """How many texts were longer than the maximum length: `3 of 300 texts cut at the maximum length of 128 tokens.`"""
    most = "" if max_length is None else f" of {max_length:,} tokens"
    return f"{count(truncated)} of {number_of_texts(texts)} cut at the maximum length{most}."


def notes(arms: Sequence[Arm], data: Data) -> list[str]:
    """How a file was read and cut; figures on few texts; and where more texts were asked for than there are."""
    from afina.data.origins import named  # it loads numpy

    records = [record for arm in arms for record in arm.records]
    files = {(one.task, one.train_examples, one.examples) for one in records if named(one.task) is None}
    made = [f"{split_of(*one)}." for one in sorted(files)]
    made += dict.fromkeys(f"Columns: {columns_in_words(one.columns)}." for one in records if one.columns)
    made += dict.fromkeys(note for one in records for note in one.notes)
    made += [
        f"{cut(truncated, train + held_out, length)}"
        for truncated, train, held_out, length in sorted(
            {(one.truncated, one.train_examples, one.examples, one.training.get("max_length")) for one in records},
            key=str,
        )
        if truncated
    ]
    made += [
        f"Figures on {number_of_texts(examples)}{too_few(examples)}."
        for examples in sorted({one.examples for one in records})
        if too_few(examples)
    ]
    for field, asked, there in (
        ("train_examples", data.train_examples, max(one.train_examples for one in records)),
        ("evaluation_examples", data.evaluation_examples, max(one.examples for one in records)),
    ):
        if asked is not None and there < asked:
            made.append(f"data.{field} asks for {count(asked)} texts; there are {count(there)}, and all were used.")
    return made
