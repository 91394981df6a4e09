"""Flags in the place of fields: what the library calls `labels`, a user of the command line calls --labels.

A library message names a field in backquotes; here is the one table of what is typed for it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping

FLAGS = {
    "allow_leakage": "--allow-leakage",
    "backbone": "--backbone",
    "batch_size": "batch_size",
    "class_weights": "class_weights",
    "epochs": "epochs",
    "evaluation": "--eval",
    "expires": "--expires",
    "file": "--file",
    "fresh": "--fresh",
    "head": "head",
    "label": "--label",
    "label_smoothing": "label_smoothing",
    "kind": "--kind",
    "labels": "--labels",
    "max_length": "max_length",
    "memory": "--memory",
    "merge_labels": "--merge-labels",
    "method": "--method",
    "metric": "--metric",
    "missing": "--missing",
    "minutes": "--minutes",
    "name": "--name",
    "offset": "offset",
    "out": "--out",
    "overrides": "--set",
    "positive": "--positive",
    "precision": "precision",
    "pull": "pull",
    "seed": "--seed",
    "separator": "--separator",
    "sheet": "--sheet",
    "task": "--task",
    "temperature": "temperature",
    "template": "--template",
    "text": "--text",
    "text_pair": "--text-pair",
    "timeout": "--timeout",
    "words": "--words",
    "train_examples": "data.train_examples",
    "evaluation_examples": "data.evaluation_examples",
    "blobs": "--blobs",
    "drain": "--drain",
    "expected": "--expect",
    "force": "--force",
    "host": "--host",
    "last": "--last",
    "limit": "--memory",
    "limits": "--limit",
    "merged": "--merged",
    "message": "--message",
    "port": "--port",
    "rate": "--rate",
    "reason": "--reason",
    "scope": "--scope",
    "shutdown": "--shutdown",
    "store": "--store",
    "who": "--who",
}
"""By the library's word; what has no flag of its own is a key of a study."""

COMMANDS: Mapping[str, Mapping[str, str]] = {
    "plan": {"batch_size": "--batch-size", "epochs": "--epochs", "max_length": "--length"},
    "study": {
        "batch_size": "train.batch_size",
        "class_weights": "train.class_weights",
        "epochs": "train.epochs",
        "kind": "data.kind",
        "label": "data.label",
        "label_smoothing": "train.label_smoothing",
        "labels": "data.labels",
        "max_length": "train.max_length",
        "merge_labels": "data.merge_labels",
        "metric": "metric",
        "missing": "data.missing",
        "positive": "data.positive",
        "precision": "train.precision",
        "pull": "train.pull",
        "separator": "data.separator",
        "sheet": "data.sheet",
        "temperature": "train.temperature",
        "text": "data.text",
        "text_pair": "data.text_pair",
    },
}
"""Where a command has another word for it."""

_FIELD = re.compile(r"`(\w+)`")


WITH_STORE = ("store", "keys", "serve", "replay", "shadow")
"""Commands with an option for the store; the others have a variable."""


def with_flags(message: str) -> str:
    """A library's message as the command line says it. Words in backquotes that are no field stay."""
    if " ".join(sys.argv[1:2]) not in WITH_STORE:
        message = message.replace("Give another with `store`", "Set AFINA_STORE")
    flags = {**FLAGS, **COMMANDS.get(" ".join(sys.argv[1:2]), {})}
    return _FIELD.sub(lambda found: flags.get(found[1], found[0]), message)
