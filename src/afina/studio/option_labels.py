"""The reading options as the studio's forms name them, and sentences of the library with these names.

A sentence of the library names an option by its word in backquotes, such as `text`. The command line writes the flag in
its place (`cli.terminal`), a page the label of the form's field. The module does not know a page.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from afina.studio.folder import Project

OPTION_LABELS: Mapping[str, str] = {
    "text": "Column of the text",
    "text_pair": "Column of a second text",
    "label": "Column of the label",
    "target": "Column of texts to learn to write",
    "kind": "Kind of task",
    "labels": "Labels in order",
    "positive": "Positive label",
    "separator": "Separator between labels",
    "merge_labels": "Merge labels that differ only by case or spaces",
    "repair": "Repair borders of entities and tags that have one right repair",
    "missing": "Rows without a text or a label",
    "long": "Target texts that are too long",
    "sheet": "Sheet",
    "evaluation": "File to evaluate on",
    "without": "File of texts to leave out of the training texts",
    "allow_leakage": "Accept held-out texts that also occur in the training split",
}
"""The label of a field, by reading option."""

OTHER_WORDS: Mapping[str, str] = {
    "backbone": "pretrained model",
    "max_length": "the most tokens of a text",
    "minutes": "Minutes",
}
"""Words for options of other commands, whose sentences also reach a page."""

_OPTION = re.compile(r"`(\w+)`")

_FLAG = re.compile(r"(?<![\w-])--([a-z]+(?:-[a-z]+)*)")


def in_words(project: Project, sentence: str) -> str:
    """Return a sentence of the library with labels of fields, and with the bare name of the project's uploaded file."""
    sentence = sentence.replace(f"{project.data.absolute()}/", "") if project.uploaded else sentence
    sentence = _FLAG.sub(_of_flag, sentence)
    return _OPTION.sub(lambda found: _label(found[1]), sentence)


def _of_flag(found: re.Match[str]) -> str:
    label = OPTION_LABELS.get(found[1].replace("-", "_"))
    return f"“{label}”" if label is not None else found[0]


def _label(name: str) -> str:
    label = OPTION_LABELS.get(name)
    return f"“{label}”" if label is not None else OTHER_WORDS.get(name, name.replace("_", " "))
