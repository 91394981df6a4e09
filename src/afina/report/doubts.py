"""Doubts about the labels of a task in words: sentences, tables and sections for a terminal, a page and a report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from afina.data.readers.target_kinds import TARGETS
from afina.errors import AfinaError
from afina.report.formatting import brief, count, listed, metric_figure
from afina.report.headline import Figure, Headline
from afina.report.sections import Block, Code, Notes, Prose, Section
from afina.report.tables import Column, Table
from afina.sentence import Sentence
from afina.studies.labelling.doubts import JSON_FILE, DoubtfulLabel, Doubts
from afina.studies.results import Results

SHOWN, PRINTED, IN_REPORT = 1000, 20, 50  # doubtful labels on a page, on a terminal and in the report of a study
LONGEST, PRINTED_CHARACTERS = 300, 60  # characters of a text on a page and on a terminal

_SIMILAR = {"equal": "equal text", "near": "nearly equal text"}

_UNKNOWING = Sentence.of(
    "The model predicts these texts hardly better than the frequencies of the labels do, so labels that contradict its "
    "predictions are not listed. Give another `method` or another `backbone`."
)

LITTLE = 1 / 3
"""The share of the doubtful labels that are probably wrong, up to which little was found."""


def sentences(found: Doubts) -> list[str]:
    wrong = _wrong(found) if found.knows else [_UNKNOWING]
    return [_checked(found), _doubtful(found), *wrong, *_other(found)]


def _checked(found: Doubts) -> str:
    value = "" if found.value is None else f", {metric_figure(found.metric, found.value)}"
    return (
        f"{count(found.texts)} labels were checked ({count(found.train)} of training texts, "
        f"{count(found.evaluation)} of evaluation texts) with {found.method} on {found.backbone}: each text was "
        f"predicted by a model that had not learned from the text ({found.folds} folds{value})."
    )


def _doubtful(found: Doubts) -> str:
    if not found.labels:
        return "No label is doubtful." if found.knows else "No label is listed."
    model = sum(one.by_model for one in found.labels)
    similar = sum(one.similar is not None for one in found.labels)
    parts = [f"{count(model)} contradict the prediction"] if model else []
    parts += [f"{count(similar)} contradict the label of an equal or nearly equal text"] if similar else []
    training = sum(one.training for one in found.labels)
    are = "labels are" if len(found) > 1 else "label is"
    return (
        f"{count(len(found))} {are} doubtful ({len(found) / found.texts:.1%}): {listed(parts)}. {count(training)} "
        f"of the doubtful labels belong to training texts."
    )


def _wrong(found: Doubts) -> list[str]:
    flips = found.flips
    if found.expected is not None:
        return [
            "A number is doubtful if its distance to the predicted number is more than 3.5 robust standard deviations. "
            f"Of normally distributed distances, about {found.expected:.1f} of {count(found.texts)} would be so large."
        ]
    if flips is None:
        return [
            "Hard texts are among the doubtful labels too: look at the first ones. Where most are right, stop reading."
        ]
    flipped = (
        f"For comparison, {count(flips.flipped)} labels were flipped on purpose, of which {flips.found:.0%} were found "
        "doubtful."
    )
    if flips.wrong >= max(len(found), 1):
        return [flipped, "The model is too unsure about these texts to say how many labels are wrong at most."]
    said = (
        f"{flipped} Not more than about {count(flips.wrong)} of the given labels ({flips.wrong / found.texts:.1%}) are "
        f"as doubtful as flipped ones; with 95 % confidence, at most {count(flips.at_most)}."
    )
    if flips.wrong <= LITTLE * len(found):
        right = 1 - flips.wrong / max(len(found), 1)
        share = "nearly all" if right > 0.99 else f"about {right:.0%} or more"
        little = (
            f"So little was found: by this estimate, {share} of the doubtful labels are right, and their texts are "
            "hard for the model."
        )
        wide = " The interval is wide: look at the first doubtful labels all the same."
        return [said, little + wide * (2 * flips.at_most > len(found))]
    return [said, "Labels that are wrong because their texts are hard cannot be counted in this way."]


def _other(found: Doubts) -> list[str]:
    said = list(found.alike)
    if found.rare:
        few = f"{listed(found.rare[:5])}{' and further labels' * (len(found.rare) > 5)}"
        said.append(f"Fewer texts than folds have the label {few}: doubts about these labels are uncertain.")
    for one in found.confused:
        said.append(
            f"The model confuses {one.first} with {one.second}: {count(one.first_as_second)} texts of {one.first} as "
            f"{one.second}, {count(one.second_as_first)} the other way round, of {count(one.texts)}. Merge the two "
            "labels, or tell those who label more clearly how they differ."
        )
    return said


def next_steps(found: Doubts, csv: str) -> str:
    if not found.labels:
        return ""
    said = (
        "No file of yours was changed. Look at the doubtful labels, the most doubtful first, and correct the wrong "
        f"ones in the file of the texts. Or delete from {csv} the rows whose labels are right, and train without the "
        "rows that are left."
    )
    if found.flips is not None and round(found.flips.wrong) < len(found):
        said += (
            f" Read at least the first {count(max(20, found.flips.wrong))}, and delete the rows that you do not read: "
            "the others are more often right than wrong."
        )
    return said


def table(found: Doubts, most: int = SHOWN, longest: int = LONGEST, *, reasons: bool = True) -> Table:
    """Return the table of the first `most` labels; without `reasons`, it only names what a label contradicts."""
    pairs = any(one.text_pair is not None for one in found.labels)
    chances = any(one.probability is not None for one in found.labels)
    headings = ["Row", "Text", *(["Second text"] * pairs), "Label", "Suggested", *(["Probability"] * chances)]
    headings.append("Reason" if reasons else "Contradicts")
    columns = tuple(Column(one, "right" if one == "Probability" else "left") for one in headings)
    several = len({one.file for one in found.labels}) > 1
    rows = []
    for one in found.labels[:most]:
        texts = [one.text, *([one.text_pair or ""] * pairs)]
        sure = ["" if one.probability is None else f"{one.probability:.2f}"] * chances
        place = f"{one.file}, {one.row}" if several else f"{one.row}"
        last = one.reason if reasons else _contradicted(one)
        labels = [TARGETS[found.kind].answer_in_words(label, one.text) for label in (one.label, one.suggested)]
        rows.append((place, *(brief(text, longest) for text in texts), *labels, *sure, last))
    return Table("Doubtful labels", columns, tuple(rows), _cut(found, most))


def _cut(found: Doubts, most: int) -> tuple[str, ...]:
    left = len(found) - most
    return (f"The first {count(most)} of {count(len(found))} doubtful labels, the most doubtful first.",) * (left > 0)


def _contradicted(one: DoubtfulLabel) -> str:
    similar = [] if one.similar is None else [_SIMILAR[one.similar]]
    return ", ".join([*similar, *(["model"] * one.by_model)])


def section(found: Doubts, most: int = SHOWN, *, texts: bool = True, named: Callable[[str], str] = str) -> Section:
    """Return the section "Labels" of a report; `texts`: with the table of the doubtful labels and their texts.

    `named` returns a sentence in the words of a face, such as the command line.
    """
    shown, said = table(found, most), [named(sentence) for sentence in sentences(found)]
    blocks: list[Block] = [Prose(" ".join(said[:2])), Notes(tuple(said[2:]))]
    if texts:
        blocks += [shown] if shown.rows else []
        blocks += [Notes(shown.notes)] if shown.notes else []
    return Section("Labels", tuple(blocks))


def section_of_results(results: Results, *, texts: bool) -> list[Section]:
    """Return the section "Labels" if the doubtful labels of the results' task were looked for; else nothing.

    `doubts.json` stands in the directory of the results, or beside the list of rows that were left out. A file about
    other texts is not shown.
    """
    beside = [Path(results.data.without).expanduser().parent] if results.data.without else []
    directory = next((one for one in (results.out, *beside) if (one / JSON_FILE).is_file()), None)
    if directory is None or not results.records:
        return []
    try:
        found = Doubts.read(directory)
    except AfinaError as error:
        return [Section("Labels", (Prose(str(error)),))]
    record = results.records[0]
    same = found.task == record.task if record.data_digest is None else found.data_digest == record.data_digest
    return [section(found, IN_REPORT, texts=texts)] if same else []


def page(found: Doubts, csv: str, command: str, named: Callable[[str], str] = str) -> str:
    """Return the page of the doubts as HTML; `command` trains without the texts of the file `csv`."""
    from afina.report.writers import html

    flips, made = found.flips, [section(found, named=named)]
    if steps := next_steps(found, csv):
        made.append(Section("What to do next", (Prose(steps), Code(command))))
    figures = [Figure("Doubtful", count(len(found)), f"{len(found) / found.texts:.1%} of the labels")]
    if flips is not None:
        figures.append(Figure("Estimated wrong", count(flips.wrong), f"at most {count(flips.at_most)}"))
    figures.append(Figure("Labels", count(found.texts), f"{count(found.train)} of training texts"))
    title = f"{count(len(found))} of {count(found.texts)} labels are doubtful"
    return html.page(f"Labels of {found.task}", (), made, Headline(title, tuple(figures)))
