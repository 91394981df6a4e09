"""The studio's words for options of the library: the labels of the fields of its forms. It does not know a page."""

from __future__ import annotations

from collections.abc import Mapping

from afina.sentence import Sentence
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
    "duplicates": "Training rows with the text of another row",
    "long": "Target texts that are too long",
    "sheet": "Sheet",
    "encoding": "Encoding",
    "evaluation": "File to evaluate on",
    "without": "File of texts to leave out or to correct",
    "allow_leakage": "Accept held-out texts that also occur in the training split",
}
"""The label of a field, by reading option."""

OTHER_WORDS: Mapping[str, str] = {
    "backbone": "pretrained model",
    "max_length": "the most tokens of a text",
    "minutes": "Minutes",
    "token_budget": "the most tokens of a batch",
    "checkpointing": "recomputing of activations",
    "upload_limit": "--upload-limit",
    "files": "--files",
}
"""Words for options of other commands, whose sentences also reach a page."""


def label(name: str) -> str:
    """Return what the pages call an option, as an `afina.sentence.Namer`: its field's label in quotation marks."""
    known = OPTION_LABELS.get(name)
    return f"“{known}”" if known is not None else OTHER_WORDS.get(name, name.replace("_", " "))


def in_words(project: Project, sentence: str) -> str:
    """Return a sentence of the library with labels of fields, and with the bare name of the project's uploaded file."""
    text = sentence.named(label) if isinstance(sentence, Sentence) else sentence
    text = text.replace(f"{project.data.absolute()}/", "") if project.uploaded else text
    return text.replace(f"{project.directory.absolute()}/", "")
