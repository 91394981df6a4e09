"""Task: a named classification problem, by address. Knows which address is whose; not how each is read.

Knows texts and labels; not tokens or models.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from afina import assets
from afina.card import Shown
from afina.data.readers import files, rows, snippets, sst2
from afina.data.readers.files import Asked
from afina.data.readers.table import READERS
from afina.data.split import Split, key
from afina.errors import InvalidData, Leakage, NotFound, UnknownName

LEAKAGE_LIMIT = 0.01
"""Share of evaluation texts that may occur in the training split."""

TASKS: dict[str, Callable[[Sequence[str] | None], tuple[tuple[str, ...], Split, Split]]] = {
    "sst2": sst2.load,
    **{f"snippets:{domain}": partial(snippets.load, domain) for domain in snippets.DOMAINS},
}
"""The named tasks: from the order of labels, or None, to label names, training and evaluation split."""


def is_at_hand(address: str) -> bool:
    """Whether the task can be read without any network: a file, a directory, or snippets that were fetched before."""
    return address not in TASKS or (address.startswith("snippets:") and assets.is_cached("snippets"))


@dataclass(frozen=True, eq=False, repr=False)
class Task(Shown):
    """A classification problem with a training and an evaluation split.

    address      how the user named it, such as `sst2`, `snippets:movies`, `my.csv`
    label_names  name of each integer label; index 1 is the positive class in binary F1
    leaked       evaluation texts that also occur in the training split (normalised)
    """

    address: str
    label_names: tuple[str, ...]
    train: Split
    evaluation: Split
    leaked: int = 0

    def facts(self) -> dict[str, object]:
        """See `Shown`."""
        return {
            "address": self.address,
            "labels": self.label_names,
            "training texts": len(self.train),
            "evaluation texts": len(self.evaluation),
            "leaked": self.leaked or None,
        }

    @classmethod
    def load(
        cls,
        address: str,
        *,
        text: str | None = None,
        text_pair: str | None = None,
        label: str | None = None,
        labels: Sequence[str] | None = None,
        train_examples: int | None = None,
        evaluation_examples: int | None = None,
        validation: float | None = None,
        evaluation: str | None = None,
        allow_leakage: bool = False,
    ) -> Task:
        """The task at `address`: a name in TASKS, a directory, or a file.

        text, text_pair, label  columns of a file; the usual names are found without (`columns.TEXT`, ...)
        labels                  the labels in their order, as they stand in the data, or a name for each of 0..n-1
        train_examples, evaluation_examples
                                at most so many, chosen by a hash of the normalised text, in original order
        validation              share of the training split, as used, that is cut from it and stands in for the
                                evaluation split, which is then in no part of the task: what chooses a setting cannot
                                see it
        evaluation              a file, all of which stands in for the evaluation split; all of a file at `address` is
                                then the training split
        allow_leakage           go on where over 1 % of the evaluation texts occur in the training split

        Raises UnknownName, NotFound, InvalidData or Leakage.
        """
        asked = Asked(text, text_pair, label)
        if address in TASKS:
            named = [field for field, value in vars(asked).items() if value]
            if named and evaluation is None:
                raise InvalidData(
                    f"task {address}: its columns are known, so `{named[0]}` cannot be chosen. Leave it out."
                )
            label_names, train, held_out = TASKS[address](labels)
            if evaluation is not None:
                held_out = _of_file(evaluation, asked, address, label_names, pairs=train.pairs is not None)
        else:
            file = None if evaluation is None else evaluation_file(evaluation)
            label_names, train, held_out = files.load(find(address), asked, labels, file)
        train = rows.first(train, train_examples, "train_examples")
        held_out = rows.first(held_out, evaluation_examples, "evaluation_examples")
        if validation is not None:
            train, held_out = rows.cut(train, validation)
        if len(set(train.labels.tolist())) < 2:
            raise InvalidData(
                f"task {address}: all {len(train)} training examples are labelled {label_names[train.labels[0]]!r}. "
                "Expected at least two different labels; give more examples."
            )
        return cls(address, label_names, train, held_out, check_leakage(address, train, held_out, allow=allow_leakage))


def count_leaked(train: Split, evaluation: Split) -> int:
    """How many evaluation examples occur in the training split; those without letters or digits do not count."""
    seen = {key(example) for example in train} - {""}
    return sum(key(example) in seen for example in evaluation)


def check_leakage(address: str, train: Split, evaluation: Split, *, allow: bool) -> int:
    """Count leaked examples; raise `Leakage` above `LEAKAGE_LIMIT` unless allowed."""
    leaked = count_leaked(train, evaluation)
    if leaked > LEAKAGE_LIMIT * len(evaluation) and not allow:
        raise Leakage(
            f"task {address}: {leaked} of {len(evaluation)} evaluation texts also occur in the training split, "
            f"at most {LEAKAGE_LIMIT:.0%} may. Remove the duplicates, or pass `allow_leakage` to go on."
        )
    return leaked


def _of_file(evaluation: str, asked: Asked, address: str, label_names: Sequence[str], *, pairs: bool) -> Split:
    """All of a file, to evaluate on what learns from the named task at `address`."""
    found, names, path = files.to_measure(evaluation_file(evaluation), asked)
    if (found.pairs is not None) != pairs:
        raise InvalidData(f"{path}: {'single texts' if pairs else 'pairs of texts'}, and {address} has none of these.")
    return rows.matched(found, label_names, None, names, whose=f"those of {address}")


def evaluation_file(evaluation: str) -> Path:
    """The file whose texts stand in for an evaluation split. Raises NotFound."""
    path = Path(evaluation).expanduser()
    if not os.path.isfile(path):
        raise NotFound(f"`evaluation` {evaluation}: no such file. Expected one ending in {', '.join(READERS)}.")
    return path


def check_address(address: str, evaluation: str | None = None) -> None:
    """Raise NotFound or UnknownName where nothing is at a task's address. Reads nothing, so that it takes no time."""
    if address not in TASKS:
        find(address)
    if evaluation is not None:
        evaluation_file(evaluation)


def find(address: str) -> Path:
    """The file or directory at an address that is no name in TASKS. Raises NotFound, UnknownName."""
    path = Path(address).expanduser()
    if os.path.exists(path):  # Path.exists raises on names that are too long.
        return path
    if "/" in address or os.sep in address or path.suffix:
        raise NotFound(
            f"task {address}: no such file or directory. Expected a file ({', '.join(READERS)}), "
            f"a directory with train.* and dev.* files, or one of {', '.join(sorted(TASKS))}."
        )
    raise UnknownName("task", address, [*TASKS, "path/to/directory", "path/to/file.csv"])
