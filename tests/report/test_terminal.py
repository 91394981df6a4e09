"""Tables in terminals of any width: no figure is broken, no name made unreadable, nothing wider than there is room."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest
from rich.console import Console

from afina.report.arms import arms
from afina.report.report import Report
from afina.report.sections import tuning_table
from afina.report.tables import Column, Table
from afina.report.writers.terminal import layout, rendered
from afina.studies.published import Published
from afina.studies.trials import Trial, Tuned
from records import answering, every_result, result, results

LONG = "lora-of-rank-16-on-every-linear-layer-v2"
"""A name of forty characters."""


def shown(table: Table, width: int) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(rendered(table, width))
    return console.export_text()


def tables() -> Iterator[Table]:
    """Those of studies with long names, several seeds, published figures beside them, and tuning."""
    made = [answering("full", range(10 + seed), seed=seed) for seed in (0, 1)]
    made += [answering("lora", range(60 + seed), seed=seed, name=LONG) for seed in (0, 1)]
    report = Report.of(results(made))
    yield from (*report.tables, *report.findings)
    published = Published(source="A study", methods={"lora": {"accuracy": 0.8693, "f1": 0.8742}})
    yield from Report.of(results(every_result(), published=published)).tables
    trial = Trial(setting={"learning_rate": 0.0012345, "r": 16}, steps=10, value=0.5, seconds=1.0)
    tuned = Tuned(name=LONG, method="lora", length=10, budget=20, trials=(trial,), setting=trial.setting)
    yield tuning_table([tuned])


@pytest.mark.parametrize("width", [80, 100, 200])
def test_figures_are_whole_and_names_are_broken_between_their_words_only(width: int) -> None:
    for table in tables():
        text = shown(table, width)
        assert max(map(len, text.splitlines())) <= width
        assert "…" not in text
        words = "".join(text.split())
        for row in table.rows:
            for column, cell in zip(table.columns, row, strict=True):
                if column.heading == "Remarks" or column.minor:
                    continue
                if column.align == "right":
                    assert any(cell in line for line in text.splitlines()), cell
                else:
                    assert all(part in words for part in cell.replace("-", "- ").split()), cell


@pytest.mark.parametrize("width", [80, 100])
def test_verdicts_on_methods_with_long_names_are_one_table(width: int) -> None:
    made = [answering("full", range(10)), answering("lora", range(60), name=LONG)]
    (table, *_) = Report.of(results(made)).findings
    text = shown(table, width)
    assert "continued" not in text
    assert ("p," in text) == (width == 100), "what follows from the rest gives way first"


def test_a_table_that_is_too_wide_goes_on_below_with_its_names_again() -> None:
    columns = (Column("Method", "left"), *(Column(f"figure {number}") for number in range(8)))
    table = Table("Many", columns, (("LoRA", *(f"{number}.2345 ± 0.1234" for number in range(8))),))
    text = shown(table, 80)
    assert text.count("Many, continued") == 1
    assert sum(line.startswith("LoRA ") for line in text.splitlines()) == 2
    assert "7.2345 ± 0.1234" in text


def test_where_not_even_one_figure_fits_beside_the_names_each_row_stands_by_itself() -> None:
    (table,) = [one for one in tables() if one.title == "Verdicts"]
    assert layout(table, 40) == []
    text = shown(table, 40)
    assert max(map(len, text.splitlines())) <= 40
    assert "  is: better\n" in text
    assert "  Difference (points): +12.50\n" in text


def test_cells_and_notes_are_shown_as_they_are() -> None:
    records = [result("full"), result(name="[red]x[/red]", examples=5)]
    (table, *_) = Report.of(results(records)).tables
    text = shown(table, 120)
    assert "LoRA ([red]x[/red])" in text


def test_an_empty_table_has_its_headings() -> None:
    assert "Method" in shown(Table("None", (Column("Method", "left"),), ()), 80)
    assert arms([]) == []
