"""`next_texts`: the unlabelled texts whose labels would teach a model most, chosen for a person who labels them.

A linear probe, fitted to the labelled training texts, predicts the unlabelled texts. Most texts are chosen because
their predictions are uncertain and the texts differ from each other. A tenth is drawn at random, because a model's
accuracy on texts that were chosen for being difficult would be too low. The random texts of all rounds, and only these,
show the accuracy on all texts (`RandomSample`). Without labelled texts, the chosen texts only differ from each other.

The choice never uses the labels of random texts: if it did, no texts near a random text would be chosen, and a model
that was fitted without the random text would be worse on it than on other texts. A share of all texts, those with the
lowest hashes, is reserved for the draw, so that no text is chosen for another reason before the draw comes to it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from afina.data import addresses, texts_to_label
from afina.data import problems as reading_problems
from afina.data.entities import with_texts
from afina.data.kinds import CLASSES
from afina.data.problems import ONLY_TEXT_OF_LABEL as TOO_FEW
from afina.data.readers import formats
from afina.data.readers.formats import FileTable
from afina.data.readers.further_files import UnlabelledTexts, read_unlabelled
from afina.data.readers.splitting import identity, rank
from afina.data.readers.target_kinds import TARGETS, of_kind
from afina.data.reading_options import ReadingOptions, shows_options
from afina.data.split import Example, Split
from afina.data.task import Task
from afina.data.texts_to_label import TextToLabel
from afina.errors import InvalidData
from afina.events import Says, silent
from afina.models import objectives
from afina.models.feature_rows import FeatureRows
from afina.models.objective import Objective
from afina.models.predictions import Predictions
from afina.repr_html import ReprCard
from afina.schema import is_number
from afina.sentence import Sentence
from afina.stats import active_learning
from afina.stats.intervals import Estimate, estimate_of_answers
from afina.stats.linear_models import LinearFit, fit_dense
from afina.stats.metrics import METRICS
from afina.studies import problems

if TYPE_CHECKING:
    from afina.predicting.text_features import FeatureModel

RANDOM, UNCERTAIN, DIVERSE = "random", "uncertain", "diverse"
"""Why a text was chosen: the values of the column CHOSEN."""

CHOSEN = "chosen"
"""The column of a file of texts to label that says why each text was chosen."""

RANDOM_SHARE = 0.1
"""The share of each round that is drawn at random, rounded up to whole texts."""

RESERVED = 0.2
"""The share of all texts that are only drawn at random, and are not chosen for another reason."""

PURPOSE = "next"
"""The purpose of the hash (`splitting.rank`) by which texts are drawn at random."""

MOST_TEXTS, MOST_LABELLED = 20_000, 5_000
"""The largest numbers of unlabelled and of labelled texts whose features are computed; a hash decides which."""

PART = 2_000
"""The number of unlabelled texts of which the features of words are held in memory at once."""

FEWEST = 10
"""The smallest number of labelled random texts from which a metric is estimated."""


@dataclass(frozen=True)
class RandomSample:
    """The main metric of the linear probe on the labelled texts that earlier rounds drew at random.

    The probe is fitted to `trained_on` texts: all other labelled ones. None as `estimate`: there are fewer than FEWEST
    random texts, or too few labels.
    """

    texts: int
    metric: str
    estimate: Estimate | None
    trained_on: int


@dataclass(frozen=True, eq=False, repr=False)
class NextTexts(ReprCard):
    """The texts to label next, in the order of the file without labels.

    Attributes:
        texts: The texts; `texts.labels` has no meaning.
        chosen: Why each text was chosen: RANDOM, UNCERTAIN or DIVERSE.
        text, text_pair: The names of the text columns; `text_pair` is None for single texts.
        labels: The names of the label columns, usually one.
        header: The columns of a file of these texts in order: those of the file of labelled texts, and CHOSEN.
        continues: Whether `header` is that of the file of labelled texts, so that rows can be added as they are.
        suggested: The predicted labels of each text; entities are JSON values with their places, labels and texts.
            None: predictions of this kind of task have no margin, or there are no labelled texts.
        probability: The probability that each prediction is right, [N]. None if `suggested` is None.
        sample: What the random texts of earlier rounds say. None: no labelled text has a value in the column CHOSEN.
        of_words: Whether the labels are of words, so that `suggested` has entities, and cells have entities as JSON.
        notes: Sentences for the user: what was read, what was left out, and why texts were chosen in this way.
    """

    texts: Split
    chosen: Sequence[str]
    text: str
    text_pair: str | None
    labels: tuple[str, ...]
    header: tuple[str, ...]
    continues: bool = False
    suggested: Sequence[Sequence[Any]] | None = None
    probability: np.ndarray | None = None
    sample: RandomSample | None = None
    of_words: bool = False
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.texts)

    def facts(self) -> dict[str, object]:
        """Return the numbers of texts, and the metric on the random texts of earlier rounds."""
        found = self.sample.estimate if self.sample else None
        made = {f"{self.sample.metric} on random texts": found.mean} if self.sample and found else {}
        return {"texts": len(self), **self.counts, **made}

    @property
    def counts(self) -> dict[str, int]:
        """The number of chosen texts by reason, without reasons that chose no text."""
        counted = {reason: list(self.chosen).count(reason) for reason in (RANDOM, UNCERTAIN, DIVERSE)}
        return {reason: count for reason, count in counted.items() if count}

    def write(self, path: str | os.PathLike[str], *, suggest: bool = False) -> int:
        """Write the texts to a new file for a person who labels them; return the number of protected cells.

        In csv, a cell that a spreadsheet would take for a formula gets an apostrophe before it. A file that ends in
        .json has tasks of Label Studio.

        Args:
            suggest: Whether to write the predicted labels, too. Suggestions save time, but people accept suggestions
                that they would not have made themselves.

        Raises InvalidData if there is nothing to suggest or the suffix is unknown, and Refused if the file exists.
        """
        if suggest and (self.suggested is None or self.probability is None):
            raise problems.NEXT_NOTHING_TO_SUGGEST(option="suggest")
        return texts_to_label.write(Path(path), list(self._rows(suggest)), self.text, self.labels[0])

    def _rows(self, suggest: bool) -> Iterator[TextToLabel]:
        for place, example in enumerate(self.texts):
            cells = dict.fromkeys(self.header, "") | {self.text: example.text, CHOSEN: self.chosen[place]}
            cells |= {self.text_pair: example.text_pair or ""} if self.text_pair else {}
            if suggest and self.suggested is not None and self.probability is not None:
                entities = self.suggested[place] if self.of_words else None
                labels = () if self.of_words else self.suggested[place]
                yield TextToLabel(cells, labels, float(self.probability[place]), entities)
            else:
                yield TextToLabel(cells)


@shows_options()
def next_texts(
    unlabelled: str | os.PathLike[str],
    labelled: str | os.PathLike[str] | Task | None = None,
    count: int = 50,
    *,
    backbone: str = "bge",
    options: ReadingOptions | None = None,
    says: Says = silent,
    **named: Any,
) -> NextTexts:
    """Choose the `count` texts of a file that should be labelled next.

    Args:
        unlabelled: The path of a file of texts without labels.
        labelled: The address of the labelled texts, or a `Task`. No text of the task is chosen. None: nothing is
            labelled yet.
        count: The number of texts to choose.
        backbone: The address of the pretrained model whose features the linear probe reads.
        options: How to read the labelled texts.
        says: Called with lines about the progress.
        named: Single reading options, which replace those of `options`.

    Raises NotFound, UnknownName, or InvalidData: a file cannot be read, no text is left, or fewer than `count` are.
    """
    asked = ReadingOptions.of(options, named)
    if not is_number(count, Integral) or count < 1:
        raise problems.NEXT_COUNT_INVALID(found=count, option="count")
    task = labelled if isinstance(labelled, Task) or labelled is None else _labelled(labelled, asked, says)
    if task is not None and task.data is not None:
        asked = task.data
    pool = _pool(unlabelled, task, asked)
    if count > len(pool):
        raise problems.NEXT_COUNT_TOO_LARGE(found=count, texts=len(pool), path=pool.path, option="count")
    from afina.models.backbone import Backbone  # torch and transformers, which take seconds
    from afina.predicting.text_features import FeatureModel

    objective = None if task is None else objectives.make(task.label_names, {"kind": task.kind})
    features = _Features(FeatureModel(Backbone.load(backbone), objective), backbone, says)
    return _chosen(pool, task, asked, count, features)


@dataclass(frozen=True, eq=False)
class _Features:
    """The features of texts on an open backbone; `says` is called once they are computed."""

    model: FeatureModel
    backbone: str
    says: Says

    def of(self, split: Split) -> FeatureRows:
        self.says(f"computing the features of {len(split):,} texts on {self.backbone}")
        return self.model.of(split)

    def parts(self, split: Split) -> Iterator[FeatureRows]:
        """Those of words for at most PART texts at once, because they need much memory."""
        if not self.model.reads_words:
            yield self.of(split)
            return
        self.says(f"computing the features of {len(split):,} texts on {self.backbone}")
        for chosen in np.array_split(np.arange(len(split)), math.ceil(len(split) / PART)):
            yield self.model.of(split.take(chosen))


def _labelled(address: str | os.PathLike[str], asked: ReadingOptions, says: Says) -> Task:
    """Return the labelled texts; if a label has a single text, all are training texts.

    A rare label has a single text in early rounds, and the choice needs no held-out texts.
    """
    try:
        return Task.load(address, asked, says=says)
    except InvalidData as error:
        if error.code != TOO_FEW.code or asked.evaluation is not None:
            raise
    whole = Task.load(address, replace(asked, evaluation=os.fspath(address), allow_leakage=True))
    note = "A label has a single text, so no labelled text is held out here. A training needs two texts of each label."
    return replace(whole, evaluation=whole.evaluation.take([]), notes=(*whole.notes, note))


def _pool(unlabelled: str | os.PathLike[str], task: Task | None, asked: ReadingOptions) -> UnlabelledTexts:
    if task is None:
        return read_unlabelled("", unlabelled, asked, {}, evaluation=[], training=[])
    splits = [split for split in (task.train, task.calibration, task.selection) if split is not None]
    return read_unlabelled(
        task.address,
        unlabelled,
        asked,
        task.columns,
        evaluation=[task.evaluation],
        training=splits,
        written=TARGETS[task.kind].written,
    )


@dataclass(frozen=True)
class _FileColumns:
    """The columns of the file of labelled texts, in order, and why each text was chosen, by its identity."""

    header: tuple[str, ...] = ()
    reasons: Mapping[str, str] = field(default_factory=dict)


def _file_columns(task: Task | None, asked: ReadingOptions) -> _FileColumns:
    """Texts that are not rows of files have no column CHOSEN; that of the list `without` counts too."""
    if task is None:
        return _FileColumns()
    roles = [role for role in ("text", "text_pair") if role == "text" or task.pairs]
    reasons = {} if asked.without is None else _reasons(formats.read(Path(asked.without)), roles)
    if "text" not in task.columns or addresses.named(task.address) is not None:
        return _FileColumns(reasons=reasons)
    header: tuple[str, ...] = ()
    for path in addresses.own_files(task.address, asked.evaluation):
        sheet = asked.sheet if formats.has_sheet(path, asked.sheet) else None
        table = formats.read(path, sheet, encoding=asked.encoding)
        header = header or tuple(table.columns)
        reasons = _reasons(table, [task.columns[role] for role in roles if role in task.columns]) | reasons
    return _FileColumns(header, reasons)


def _reasons(table: FileTable, names: Sequence[str]) -> dict[str, str]:
    """Return why each text of a table was chosen, by its identity, if the table has the column CHOSEN."""
    if any(name not in table.columns for name in (*names, CHOSEN)):
        return {}
    rows = zip(*(map(str, table.columns[name]) for name in (*names, CHOSEN)), strict=True)
    known = (RANDOM, UNCERTAIN, DIVERSE)
    return {identity(Example(text, 0, *pair)): reason for text, *pair, reason in rows if reason in known}


def _chosen(
    pool: UnlabelledTexts,
    task: Task | None,
    asked: ReadingOptions,
    count: int,
    features: _Features,
) -> NextTexts:
    """A share that a hash draws, and others that are uncertain, if possible, and differ."""
    of_file, kind = _file_columns(task, asked), TARGETS[task.kind] if task else of_kind(asked.kind or CLASSES)
    columns = _columns(pool, task, of_file, (None if task else asked.label) or kind.column)
    order = np.argsort(_ranks(pool.split), kind="stable")
    drawn = math.ceil(RANDOM_SHARE * count)
    among = order[: max(MOST_TEXTS, count)]
    notes = _notes(pool, task, len(among))
    probe, sample = (None, None) if task is None else _probe(task, features, of_file.reasons)
    points, predictions = _points_and_predictions(pool.split.take(among), features, probe)
    left = _not_reserved(pool.split.take(among), drawn, count)
    margin = None if probe is None or predictions is None else probe.objective.margin(predictions)
    if margin is None:
        reason, own = DIVERSE, active_learning.diverse(points[left], count - drawn)
    else:
        reason, own = UNCERTAIN, active_learning.uncertain(points[left], margin[left], count - drawn)
    places = np.concatenate([np.arange(drawn), left[own]])
    places = places[np.argsort(among[places])]
    answered: dict[str, Any] = {}
    if probe is not None and predictions is not None and margin is not None:
        some = predictions.take(places)
        texts = [pool.split.texts[place] for place in among[places].tolist()]
        answered = {"suggested": probe.labels(some, texts), "probability": probe.objective.confidence(some)}
    return NextTexts(
        pool.split.take(among[places]),
        [RANDOM if place < drawn else reason for place in places],
        **columns,
        **answered,
        sample=sample,
        of_words=kind.of_words,
        notes=notes,
    )


def _points_and_predictions(
    split: Split, features: _Features, probe: _Probe | None
) -> tuple[np.ndarray, Predictions | None]:
    """A point of features for each text, [N, width], and the predictions of a probe."""
    points, predictions = [], []
    for made in features.parts(split):
        points.append(made.of_texts)
        if probe is not None:
            predictions.append(probe.predictions(made))
    return np.concatenate(points), Predictions.joined(predictions) if predictions else None


def _not_reserved(texts: Split, drawn: int, count: int) -> np.ndarray:
    """Return the places of the texts that are not reserved for the draw, among texts in the order of their ranks.

    If these are fewer than `count` - `drawn`, the texts of the highest ranks that are reserved complete the number.
    """
    free = int(np.searchsorted(_ranks(texts), np.uint64(RESERVED * 2**64)))
    return np.arange(max(drawn, min(free, len(texts) - (count - drawn))), len(texts))


def _notes(pool: UnlabelledTexts, task: Task | None, computed: int) -> tuple[str, ...]:
    notes = [*(task.lines if task else []), pool.note]
    same = task is not None and os.path.abspath(pool.path) == os.path.abspath(task.address)
    for name, rows in pool.labelled.items() if not same else ():
        found = f"{pool.path}: column {name!r} has a value in {rows:,} row{'s' * (rows != 1)}."
        notes.append(Sentence([found, Sentence.of(" These values are not read. Give labelled texts with `labelled`.")]))
    if computed < len(pool):
        notes.append(f"Texts are chosen among {computed:,} of the {len(pool):,} texts, which are drawn at random.")
    if task is None:
        notes.append("No text is labelled yet, so the chosen texts only differ from each other.")
    elif not objectives.OBJECTIVES[task.kind].has_margin:
        notes.append(
            f"Predictions of kind {task.kind} have no probabilities, so the chosen texts only differ from each other."
        )
    return tuple(notes)


def _columns(pool: UnlabelledTexts, task: Task | None, of_file: _FileColumns, label: str) -> dict[str, Any]:
    """Return the fields of `NextTexts` that name columns; `label` if the texts have none. Raises InvalidData."""
    roles = pool.columns if task is None or "text" not in task.columns else task.columns
    text, pair = roles.get("text", "text"), None if pool.split.pairs is None else roles.get("text_pair", "text_pair")
    labels = tuple(roles.get("label", roles.get("target", label)).split(","))
    if repeated := next((name for name in labels if name in (text, pair)), None):
        raise reading_problems.COLUMN_IS_TEXT(where=pool.path, field="label", column=repeated)
    usual = (text, *([pair] if pair else []), *labels)
    header = dict.fromkeys([*(of_file.header or usual), CHOSEN])
    return {
        "text": text,
        "text_pair": pair,
        "labels": labels,
        "header": tuple(header),
        "continues": CHOSEN in of_file.header,
    }


@dataclass(frozen=True)
class _Probe:
    objective: Objective
    fit: LinearFit

    @classmethod
    def of(cls, task: Task, features: FeatureRows, labels: np.ndarray) -> _Probe | None:
        """None if all labelled texts have the same class."""
        objective = objectives.make(task.label_names, {"kind": task.kind}).of(labels)
        targets = objective.row_targets(labels, features)
        if not objective.linear.can_fit(targets):
            return None
        return cls(objective, fit_dense(objective.linear, features.rows, targets, objective.width, intercept=True))

    def predictions(self, features: FeatureRows, targets: np.ndarray | None = None) -> Predictions:
        return self.objective.of_rows(features.rows @ self.fit.weights.T + self.fit.biases, targets, features)

    def labels(self, predictions: Predictions, texts: Sequence[str]) -> list[list[Any]]:
        answers = zip(self.objective.answers(predictions), texts, strict=True)
        found = [with_texts(one, text)[self.objective.column] for one, text in answers]
        return [[one] if isinstance(one, str) else list(one) for one in found]


def _probe(task: Task, features: _Features, reasons: Mapping[str, str]) -> tuple[_Probe | None, RandomSample | None]:
    """Return the probe of the training texts, and what the random texts of earlier rounds say.

    Labels of evaluation texts never choose texts, so that the evaluation stays independent of the training texts.
    """
    objective = objectives.OBJECTIVES[task.kind]
    if not hasattr(objective, "linear") or not (objective.has_margin or reasons):
        return None, None
    train = _first(task.train)
    known = Split.joined([train, _first(task.evaluation)]) if reasons else train
    points = features.of(known)
    drawn = np.array([reasons.get(identity(example)) == RANDOM for example in known], dtype=bool)
    teaches = ~drawn[: len(train)]
    if 2 * teaches.sum() < len(train):  # such as a first file of random texts
        teaches[:] = True
    places = np.flatnonzero(teaches)
    probe = _Probe.of(task, points.take(places), train.labels[places])
    return probe, _random_sample(task, known, points, drawn) if drawn.any() else None


def _first(split: Split) -> Split:
    """The MOST_LABELLED texts that a draw at random would take first, in the order of the split."""
    return split.take(np.sort(np.argsort(_ranks(split), kind="stable")[:MOST_LABELLED]))


def _ranks(split: Split) -> np.ndarray:
    """The hash of each text, uint64 [N]."""
    return np.array([rank(example, PURPOSE) for example in split], dtype=np.uint64)


def _random_sample(task: Task, known: Split, features: FeatureRows, drawn: np.ndarray) -> RandomSample:
    """Return the main metric on the random texts (`drawn`, bool [N]), by a probe fitted to all other labelled texts."""
    objective = objectives.make(task.label_names, {"kind": task.kind})
    metric, texts, others = METRICS[objective.metric], int(drawn.sum()), int((~drawn).sum())
    probe = (
        _Probe.of(task, features.take(np.flatnonzero(~drawn)), known.labels[~drawn])
        if texts >= FEWEST and others
        else None
    )
    if probe is None:
        return RandomSample(texts, metric.name, None, others)
    answered = probe.objective.answered(probe.predictions(features.take(np.flatnonzero(drawn)), known.labels[drawn]))
    return RandomSample(texts, metric.name, estimate_of_answers([answered], metric), others)
