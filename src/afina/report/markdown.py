"""Records -> `report.md`: text that reads well as it stands and when rendered.

Knows Markdown; the tables' contents come from `tables` and `paper`. Writes no file.
"""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Callable, Iterable, Sequence

from afina.record import Environment, Record
from afina.report.outcome import Failure
from afina.report.rows import Row, differing, groups, in_words, labels, rows, training, value_in_words
from afina.report.tables import NOTHING, Column, Table

WIDTH = 100


def table(shown: Table) -> str:
    """The grid alone, its columns padded so that it can be read as plain text."""
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


def section(shown: Table) -> str:
    """Heading, grid and notes."""
    return "\n\n".join([f"## {shown.title}", table(shown), *([bullets(shown.notes)] if shown.notes else [])])


def bullets(notes: Iterable[str]) -> str:
    """One item per note, wrapped."""
    return "\n".join(
        textwrap.fill(
            note, WIDTH, initial_indent="- ", subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
        )
        for note in notes
    )


def report(
    study: str, records: Sequence[Record], tables: Sequence[Table], command: Sequence[str], failed: Sequence[Failure]
) -> str:
    """The whole report of a study."""
    parts = [f"# Study `{study}`"]
    if not records:
        parts.append("No run has finished.")
    if failed:
        lines = [f"{one.name}, seed {one.seed}: {one.error}" for one in failed]
        parts += ["## Failed runs", "The same command tries these again.", bullets(lines)]
    if records:
        parts += ["## What was run", bullets(_asked(records)), table(_runs(records))]
        parts += map(section, tables)
        parts += ["## Adapters", table(_adapters(records)), "## Environment", *_environments(records)]
    if command:
        parts += ["## To repeat", f"```sh\n{shlex.join(command)}\n```"]
    return "\n\n".join(parts) + "\n"


def _asked(records: Sequence[Record]) -> list[str]:
    def each(value: Callable[[Record], str]) -> str:
        return "; ".join(dict.fromkeys(map(value, records)))

    asked = [training(record) for record in records]
    same = {key: value for key, value in asked[0].items() if key not in _by_run(asked)}
    leaked = max(record.leaked for record in records)
    truncated = max(record.truncated for record in records)
    return [
        "Backbone: " + each(lambda record: f"`{record.backbone}`, {record.total:,} parameters with the head"),
        "Task: "
        + each(
            lambda record: (
                f"`{record.task}`, {record.train_examples:,} training and {record.examples:,} evaluation texts, "
                f"labels {', '.join(f'`{name}`' for name in record.label_names)}"
            )
        ),
        f"Seeds: {', '.join(map(str, sorted({record.seed for record in records})))}",
        *([f"Training, the same in every run: {in_words(same)}"] if same else []),
        *([f"Texts cut at the maximum length: {truncated:,}"] if truncated else []),
        *([f"Evaluation texts that also occur in the training split: {leaked:,}"] if leaked else []),
    ]


def _by_run(asked: Sequence[dict[str, object]]) -> list[str]:
    """Training settings shown per run: the learning rate, and whatever is not the same everywhere."""
    keys = differing(asked)
    always = "learning_rate"
    return keys if always in keys or not any(always in one for one in asked) else [always, *keys]


def _runs(records: Sequence[Record]) -> Table:
    by_run = _by_run([training(record) for record in records])
    grouped = groups(records)
    lines = []
    for group, text in zip(grouped, labels(grouped), strict=True):
        record = group[0]
        asked = [
            NOTHING if not record.steps or record.training.get(key) is None else value_in_words(record.training[key])
            for key in by_run
        ]
        amounts = [f"{record.steps:,}", f"{record.tokens:,}"] if record.steps else [NOTHING, NOTHING]
        lines.append((text, in_words(record.hyperparameters) or NOTHING, *asked, *amounts))
    headings = [key.replace("_", " ").capitalize() for key in by_run]
    columns = (
        Column("Method", "left"),
        Column("Hyperparameters", "left"),
        *map(Column, [*headings, "Steps", "Tokens"]),
    )
    return Table("Runs", columns, tuple(lines))


def _adapters(records: Sequence[Record]) -> Table:
    one_each = [(row, row.records[0]) for row in rows(records) if len(row.records) == 1]
    lines = tuple((row.label, row.seed, f"`{record.adapter}`", f"`{record.digest}`") for row, record in one_each)
    return Table("Adapters", tuple(Column(name, "left") for name in ("Method", "Seed", "Path", "Digest")), lines)


def _environments(records: Sequence[Record]) -> list[str]:
    """One list per distinct environment, which nearly always is one."""
    distinct: list[tuple[Environment, list[Row]]] = []
    for row in rows(records):
        if len(row.records) == 1:
            environment = row.records[0].environment
            for known, made_there in distinct:
                if known == environment:
                    made_there.append(row)
                    break
            else:
                distinct.append((environment, [row]))
    if len(distinct) == 1:
        return [_environment(distinct[0][0])]
    parts = [f"The runs were made in {len(distinct)} environments: compare their times and memory with care."]
    for number, (environment, made_there) in enumerate(distinct, start=1):
        made = "; ".join(f"{row.label}, seed {row.seed}" for row in made_there)
        parts += [f"### Environment {number}", f"Made there: {made}.", _environment(environment)]
    return parts


def _environment(environment: Environment) -> str:
    state = {None: "", False: ", clean tree", True: ", with changes not committed"}[environment.git_dirty]
    commit = f"`{environment.git_commit}`{state}" if environment.git_commit else "none"
    return bullets(
        [
            f"Device: {environment.device}; {environment.threads} threads; training in {environment.dtype}",
            f"Machine: {environment.platform}, {environment.processor}",
            "Versions: " + ", ".join(f"{name} {version}" for name, version in sorted(environment.versions.items())),
            f"Git commit: {commit}",
            f"Backbone: `{environment.backbone_digest}`",
            f"Tokenizer: `{environment.tokenizer_digest}`",
            f"Training split: `{environment.train_digest}`",
            f"Evaluation split: `{environment.evaluation_digest}`",
        ]
    )


def _escaped(cell: str) -> str:
    """One line, and no bar that would end the cell."""
    return " ".join(cell.split()).replace("|", "\\|")
