"""What tuning took -> a table. Pure. Shows no figure of the validation cut: what chose a setting says nothing of it."""

from __future__ import annotations

from collections.abc import Sequence

from afina.methods import make
from afina.report.tables import Column, Table
from afina.report.words import NOTHING, count, in_words, seconds
from afina.studies.trials import Tuned

TUNING = "Tuning budget"


def tuning_table(tuned: Sequence[Tuned]) -> Table:
    """A row per method: candidates, stopped early, steps, seconds and the chosen setting."""
    held = max((one.validation_examples for one in tuned), default=0)
    lines = [
        (
            make(one.method).title + ("" if one.name == one.method else f" ({one.name})"),
            count(len(one.trials)),
            count(one.stopped),
            count(one.steps),
            seconds(one.seconds),
            in_words(_rounded(one.setting)) if one.setting else NOTHING,
        )
        for one in tuned
    ]
    return Table(
        TUNING,
        (
            Column("Method", "left"),
            *map(Column, ("Candidates", "Stopped early", "Steps", "Seconds")),
            Column("Chosen setting", "left"),
        ),
        tuple(lines),
        (
            f"Each method that can be tuned was given the same number of training steps. {held:,} texts were cut from "
            "the training split to choose by; their figures are in no table. The runs above trained on the whole "
            "training split at the chosen setting, and were evaluated once, on texts that chose nothing.",
            "Seconds are wall-clock, with the start and the loading of each candidate. A method without candidates has "
            "nothing to tune.",
        ),
    )


def _rounded(setting: dict[str, object]) -> dict[str, object]:
    return {key: float(f"{value:.3g}") if isinstance(value, float) else value for key, value in setting.items()}
