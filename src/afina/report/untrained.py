"""The model before any training, in words: as it answers when asked, and as the published study measures it. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from afina.methods import make
from afina.report.arms import Arm
from afina.report.words import share


def notes(arms: Sequence[Arm]) -> list[str]:
    """What each row of it means; of a row that is not there, what it would be, or how to have it."""
    if arms[0].record.kind != "classes":
        return [
            f"{arm.label} is the pretrained model under a random head, which knows nothing of the task."
            for arm in arms
            if make(arm.record.method).head == "random"
        ]
    drawn = [arm for arm in arms if make(arm.record.method).head == "random"]
    answering = [arm for arm in arms if make(arm.record.method).head == "words"]
    made = [
        f"{arm.label} is the published study's row: the pretrained model under a random head, which has been told "
        "nothing of the labels. It says what a coin says, whatever the model knows."
        for arm in drawn[:1]
    ]
    if not drawn:
        count = len(arms[0].record.label_names)
        made.append(
            "The published study's row without fine-tuning, a random head on the pretrained model, would be that of "
            f"chance, about {share(1 / count)} with {count} equally frequent labels."
        )
    made += [
        f"{arm.label} asks the same model in words, and trains nothing: what it knows of the labels beforehand."
        for arm in answering[:1]
    ]
    if not answering:
        made.append(
            "What the untrained model answers when it is asked in words was not measured here; "
            f"`afina ask --task {arms[0].record.task}` does, in seconds."
        )
    return made
