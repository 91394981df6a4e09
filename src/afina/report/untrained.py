"""The model before any training, in words: under a random head, and as it answers when asked. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from afina.methods import make
from afina.report.arms import Arm


def under_random_head(arms: Sequence[Arm]) -> list[str]:
    """What a row of it means where no words can answer."""
    return [
        f"{arm.label} is the pretrained model under a random head, which knows nothing of the task."
        for arm in arms
        if make(arm.record.method).head == "random"
    ]


def asked_in_words(arms: Sequence[Arm]) -> list[str]:
    """What each row of it means, and how to have what the model answers where that is not there."""
    drawn = [arm for arm in arms if make(arm.record.method).head == "random"]
    answering = [arm for arm in arms if make(arm.record.method).head == "words"]
    made = [
        f"{arm.label} is the pretrained model under a random head, which has been told nothing of the labels. It says "
        "what a coin says, whatever the model knows."
        for arm in drawn[:1]
    ]
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
