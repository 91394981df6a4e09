"""`Doubts`: the labels of a task that are probably wrong, as they stand in `doubts.json` and `doubts.csv`.

The module can be imported without torch.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self

from pydantic import ValidationError

from afina import file_io
from afina import problems as ground
from afina.data.kinds import Kind
from afina.data.reading_options import USUAL, ReadingOptions
from afina.repr_html import ReprCard
from afina.schema import Count, Frozen, Sealed, WrongValue, check_format
from afina.spreadsheet_cells import harmless
from afina.studies import problems

JSON_FILE, CSV_FILE = "doubts.json", "doubts.csv"

COLUMNS = ("file", "row", "text", "text_pair", "label", "suggested", "probability", "reason")
"""The columns of `doubts.csv`; `text_pair` is left out for single texts."""


class DoubtfulLabel(Frozen):
    """A label that is probably wrong.

    Attributes:
        file: The file from which the text was read, as error messages name it; the task's address without a file.
        row: The number of the text in the file, as error messages count, from 1.
        probability: That of the suggested label. None: of numbers, or if no model was asked.
        reason: A sentence without a full stop.
        by_model: Whether a model finds the label doubtful.
        similar: Whether the label contradicts that of an equal text ("equal"), or of a nearly equal one ("near"). None:
            of neither.
    """

    file: str
    row: Count
    training: bool
    text: str
    text_pair: str | None = None
    label: str
    suggested: str
    probability: float | None = None
    reason: str
    by_model: bool = True
    similar: Literal["equal", "near"] | None = None


class ConfusedLabels(Frozen):
    """Two labels that a model confuses with each other, and the number of `texts` with one of the two.

    The model gives the label `second` to `first_as_second` texts with the label `first`.
    """

    first: str
    second: str
    first_as_second: Count
    second_as_first: Count
    texts: Count


class FlippedLabels(Frozen):
    """How labels that were flipped on purpose compare with the given labels.

    Attributes:
        found: The share of the flipped labels that were found doubtful.
        wrong: The estimate of the largest number of given labels that can be wrong at random; it is rather too high.
        at_most: The upper end of a one-sided 95 % confidence interval of this number.
    """

    flipped: Count
    found: float
    wrong: float
    at_most: float


class Doubts(ReprCard, Sealed):
    """The doubtful labels of a task, the most doubtful first.

    Attributes:
        method, backbone: Those of the models that predicted the texts.
        train, evaluation: The numbers of training and of evaluation texts.
        metric: The name of the main metric of the predictions of all texts, each by a model that did not learn it.
        gain: The share of the loss of a model without features that the models avoid. None: unknown.
        knows: Whether `gain` is large enough; otherwise no label is listed because a model contradicts it.
        flips: The comparison with flipped labels. None: the targets are numbers, the models know too little, or the
            comparison would have taken as long as the cross-fitting.
        expected: For numbers, how many of them would be doubtful if residuals were normally distributed; else None.
        alike: Sentences about labels that differ only in spelling.
        similar_texts: The number of texts that are equal or nearly equal to another text.
        rare: The labels with fewer texts than folds.
        data_digest: The digest of the task's texts and labels as they were read.
    """

    task: str
    kind: Kind
    method: str
    backbone: str
    folds: Count
    seed: int
    train: Count
    evaluation: Count
    labels: tuple[DoubtfulLabel, ...]
    metric: str
    value: float | None
    gain: float | None = None
    knows: bool = True
    flips: FlippedLabels | None = None
    expected: float | None = None
    confused: tuple[ConfusedLabels, ...] = ()
    alike: tuple[str, ...] = ()
    similar_texts: Count = 0
    rare: tuple[str, ...] = ()
    data_digest: str | None = None
    data: ReadingOptions = USUAL

    def facts(self) -> dict[str, object]:
        flips = self.flips
        return {
            "task": self.task,
            "labels": self.train + self.evaluation,
            "doubtful": len(self.labels),
            "probably wrong": None if flips is None else f"{flips.wrong:,.0f} (at most {flips.at_most:,.0f})",
            "method": self.method,
            "backbone": self.backbone,
            self.metric: self.value,
        }

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def texts(self) -> int:
        """The number of texts whose labels were looked at."""
        return self.train + self.evaluation

    @property
    def csv(self) -> str:
        """The content of `doubts.csv`, in which no cell is a formula for a spreadsheet."""
        return as_csv(self.labels)

    def write(self, out: str | Path) -> tuple[Path, Path]:
        """Write `doubts.json` and `doubts.csv` into a directory; return their paths. Raises CannotWrite."""
        directory = Path(out)
        with file_io.writing(directory):
            directory.mkdir(parents=True, exist_ok=True)
        files = directory / JSON_FILE, directory / CSV_FILE
        file_io.write_text(files[0], self.sealed().model_dump_json(indent=1) + "\n")
        file_io.write_text(files[1], self.csv)
        return files

    @classmethod
    def read(cls, out: str | Path) -> Self:
        """Read `doubts.json` of a directory. Raises NotFound, or InvalidData if the file is damaged or was changed."""
        path = Path(out) / JSON_FILE
        if not path.is_file():
            raise problems.DOUBTS_MISSING(path=path)
        text = path.read_text(encoding="utf-8")
        check_format(text, path, "Run `afina doubts` again.")
        try:
            made = cls.model_validate_json(text)
        except ValidationError as error:
            raise problems.DOUBTS_DAMAGED(path=path, reason=WrongValue.of(error).message) from None
        if problem := made.refuses(text):
            raise problems.DOUBTS_DAMAGED(path=path, reason=problem)
        return made


def check_is_list(path: Path) -> None:
    """Raise Refused if `path` is a file other than a list of doubts, such as the labelled texts themselves."""
    if path.is_file():
        with path.open("rb") as file:
            begins = file.read(len(start := ",".join(COLUMNS[:3]).encode()))
        if begins != start:
            raise ground.OUT_EXISTS(path=path)


def as_csv(labels: Sequence[DoubtfulLabel]) -> str:
    """Return doubtful labels as csv with the columns COLUMNS."""
    pairs = any(one.text_pair is not None for one in labels)
    names = [name for name in COLUMNS if pairs or name != "text_pair"]
    content = io.StringIO()
    writer = csv.writer(content, lineterminator="\n")
    writer.writerow(names)
    for one in labels:
        cells = one.model_dump() | {"probability": "" if one.probability is None else f"{one.probability:.3f}"}
        writer.writerow([harmless(str(cells[name])) if name != "row" else one.row for name in names])
    return content.getvalue()
