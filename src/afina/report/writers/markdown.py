"""The writer of `report.md`: Markdown that is readable as plain text and when rendered."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import replace

from afina.report.examples.marked_answers import MarkedExamples
from afina.report.examples.side_by_side import AnsweredText, Examples
from afina.report.examples.word_differences import Piece
from afina.report.plots.svg import Plot
from afina.report.sections import AnswerBlock, Block, Code, Notes, Prose, Section, Subheading
from afina.report.tables import EACH_SEED, Table

WIDTH = 100


def table(shown: Table) -> str:
    """Return a table in Markdown without its notes; the columns are padded, so that the plain text is readable."""
    cells = [
        [_escaped(column.heading) for column in shown.columns],
        *([_escaped(c) for c in row] for row in shown.rows),
    ]
    widths = [max(3, *(len(row[i]) for row in cells)) for i in range(len(shown.columns))]
    left = [column.align == "left" for column in shown.columns]

    def line(row: Sequence[str]) -> str:
        padded = [
            cell.ljust(width) if to_left else cell.rjust(width)
            for cell, width, to_left in zip(row, widths, left, strict=True)
        ]
        return f"| {' | '.join(padded)} |"

    rule = ["-" * width if to_left else "-" * (width - 1) + ":" for width, to_left in zip(widths, left, strict=True)]
    return "\n".join([line(cells[0]), line(rule), *map(line, cells[1:])])


def bullets(notes: Iterable[str]) -> str:
    return "\n".join(
        textwrap.fill(
            note, WIDTH, initial_indent="- ", subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
        )
        for note in notes
    )


def report(heading: str, sections: Sequence[Section]) -> str:
    """Return the whole report in Markdown, without plots; `report.html` has the plots."""
    parts = [f"# {heading}"]
    for section in sections:
        parts += [f"## {section.title}", *(text for block in section.blocks if (text := _written(block)))]
    return "\n\n".join(parts) + "\n"


def _written(block: Block) -> str:
    match block:
        case Prose(text):
            return textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)
        case AnswerBlock():
            return "\n\n".join(_written(Prose(sentence)) for sentence in block.sentences)
        case Subheading(text):
            return f"### {text}"
        case Notes(items):
            return bullets(items)
        case Code(text):
            return f"```sh\n{text}\n```"
        case Table():
            return "\n\n".join([table(block), *([_folded(block)] if block.singles else [])])
        case Plot():
            return ""
        case Examples():
            return _examples(block)
        case MarkedExamples():
            return _marked_examples(block)


def _examples(block: Examples) -> str:
    legend = ["Beside the nearest reference: **words that it lacks**, ~~words of it that are missing~~."] * block.marked
    return "\n\n".join([*legend, *(f"### {one.title}\n\n{_example(one)}" for one in block.items)])


def _example(one: AnsweredText) -> str:
    lines = [("Input", _plain(one.text))]
    of = f" of {one.count}" * (one.count > 1)
    lines += [(f"Reference{f' {number}{of}' * bool(of)}", _plain(text)) for number, text in one.references]
    lines += [
        (f"{answer.label} ({answer.remark})", "".join(map(_marked, answer.pieces)).strip() or "*empty answer*")
        for answer in one.answers
    ]
    return "\n".join(f"- {name}: {text}" for name, text in lines)


def _marked_examples(block: MarkedExamples) -> str:
    made = []
    for one in block.items:
        lines = (
            f"- {_plain(line.label)}{f' ({line.remark})' * bool(line.remark)}: {_plain(line.text.plain())}"
            for line in one.lines
        )
        made.append("\n".join([f"### {one.title}\n", *lines]))
    return "\n\n".join(made)


def _marked(piece: Piece) -> str:
    """Return a piece of a comparison in Markdown: bold if the reference lacks it, struck out if the answer does."""
    words = _plain(piece.text)
    mark = {"same": "", "added": "**", "missing": "~~"}[piece.state]
    return f"{mark}{words}{mark}{' ' * piece.text.endswith(' ')}" if words else piece.text


def _plain(text: str) -> str:
    return _escaped(re.sub(r"([\\*~`])", r"\\\1", text))


def _folded(shown: Table) -> str:
    return f"<details>\n<summary>{EACH_SEED}</summary>\n\n{table(replace(shown, rows=shown.singles))}\n\n</details>"


def _escaped(cell: str) -> str:
    """Return the text of a table cell on one line, with `|`, HTML tags and links escaped."""
    line = " ".join(cell.split()).replace("|", "\\|").replace("](", "]\\(")
    return re.sub(r"<(?=[A-Za-z/!?])", r"\\<", line)
