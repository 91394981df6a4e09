"""The page, its plots, and the files beside it."""

from __future__ import annotations

import csv
import io
import json
import re
from html.parser import HTMLParser

import pytest

from afina.report.arms import arms
from afina.report.examples.disagreements import EvaluationTexts
from afina.report.plots import comparison, predictions, svg
from afina.report.plots.comparison import pareto_front
from afina.report.report import CSV, JSON, MARKDOWN, Report
from records import TRAINED, result, results

HOSTILE = "<script>alert(1)</script>"
ANSWERS = {"full": (0, 1, 1, 0, 0), "lora": (0, 1, 0, 0, 1)}


def study(**changes: object) -> Report:
    made = [result(method, predicted=ANSWERS.get(method, (1, 1, 1, 1, 1)), **changes) for method in TRAINED]
    return Report.of(
        results(made, command=("afina", "study", "mine.toml")), EvaluationTexts([HOSTILE] * 5, "sha256:d1")
    )


@pytest.fixture(scope="module")
def page() -> str:
    return study(label_names=("no", f"yes{HOSTILE}")).page()


class Elements(HTMLParser):
    """Every start tag with its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_what_a_record_or_a_text_holds_is_never_markup(page: str) -> None:
    assert "script" not in {tag for tag, _ in Elements(page).found}
    assert page.count("&lt;script&gt;") >= 5
    text = study(label_names=("no", f"yes{HOSTILE}"), name=HOSTILE).markdown()
    assert not re.search(r"(?<!\\)<script", "\n".join(line for line in text.splitlines() if line.startswith("|")))


def test_the_content_has_the_sections_of_the_page_without_style_or_script(page: str) -> None:
    content = study(label_names=("no", f"yes{HOSTILE}")).content()
    assert [one.title for one in content.sections] == re.findall(r"<h2[^>]*>(.*)</h2>", page)
    assert f"<h1>{content.headline}</h1>" in page
    tags = [tag for tag, _ in Elements(content.html).found]
    assert tags.count("svg") == page.count("<svg") > 2
    assert not {"style", "script", "link", "html"} & {*tags}
    assert all(one.html.startswith("<section") and one.html.count("<section") == 1 for one in content.sections)


def test_the_page_asks_for_nothing_outside_itself(page: str) -> None:
    elements = Elements(page).found
    links = [value for _, attributes in elements for key, value in attributes.items() if key in ("src", "href")]
    assert links
    assert all(link is not None and link.startswith(("#", "data:")) for link in links)
    assert not re.search(r"url\((?!#)|@import", page)
    policy = next(attributes for _, attributes in elements if attributes.get("http-equiv"))
    assert str(policy["content"]).startswith("default-src 'none'")


def test_every_plot_that_the_figures_allow_is_there_with_a_text_of_its_own(page: str) -> None:
    titles = re.findall(r"<figure>\s*<h3>(.*?)</h3>", page)
    assert titles[:7] == [
        "PreLayer (46,080, head frozen) minus each other method",
        "Accuracy",
        "Accuracy against trainable parameters",
        "Accuracy against training time",
        "Accuracy against peak memory",
        "Training loss",
        "Time by phase",
    ]
    assert titles[-2:] == ["Reliability", "What remains where the least sure are left to a human"]
    assert len(titles) == 7 + 5 + 2
    texts = [attributes["aria-label"] for tag, attributes in Elements(page).found if tag == "svg"]
    assert len(set(texts)) == len(titles)
    assert any("LoRA 148,992, 0.6000" in str(text) for text in texts)


def test_plots_keep_text_as_text_and_take_every_colour_from_the_page(page: str) -> None:
    plots = "".join(re.findall(r"<svg.*?</svg>", page, re.DOTALL))
    assert ">Trainable parameters (logarithmic)</text>" in plots
    assert not re.search(r"(?:fill|stroke|color): #", plots)
    used = set(re.findall(r"var\((--[a-z0-9-]+)\)", plots))
    assert {"--ink", "--faint", "--method-0", "--method-4"} <= used
    assert all(page.count(f"{name}: #") >= 2 for name in used), "each is defined for light and for dark"


@pytest.mark.parametrize("methods", [["lora"], ["baseline", "lora"], ["baseline"], ["full", "lora"]], ids=" ".join)
def test_the_scale_of_parameters_has_three_labels_or_more(methods: list[str]) -> None:
    with svg.drawing():
        plot = comparison.against_parameters(arms([result(method) for method in methods]))
    labels = re.findall(r">(none|[\d,]+)</text>", plot.svg)
    assert len(labels) >= 3
    assert ("none" in labels) is ("baseline" in methods)


def _contrast(first: str, second: str) -> float:
    """WCAG 2.2's contrast ratio."""

    def luminance(tone: str) -> float:
        parts = [int(tone[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def test_each_methods_colour_stands_out_on_its_page(page: str) -> None:
    papers = re.findall(r"--paper: (#[0-9a-f]{6});", page)
    for colours, paper in zip((svg.LIGHT, svg.DARK), papers, strict=True):
        assert all(_contrast(colour, paper) >= 3 for colour in colours)
        assert len(set(colours)) == len(colours)


def test_the_pareto_front_keeps_what_nothing_beats() -> None:
    costs, accuracies = [0, 10, 10, 20, 30, 5], [0.5, 0.9, 0.8, 0.9, 0.95, 0.4]
    assert pareto_front(costs, accuracies) == [0, 1, 4]
    assert pareto_front([1, 1], [0.5, 0.5]) == [0, 1]


@pytest.mark.slow
def test_the_same_records_give_the_same_bytes(page: str) -> None:
    assert study(label_names=("no", f"yes{HOSTILE}")).page() == page
    names = (MARKDOWN, CSV, JSON)
    assert study().files(names) == study().files(names)


def test_a_name_that_looks_like_mathematics_is_shown_as_it_is() -> None:
    with svg.drawing():
        plot = comparison.against_parameters(arms([result(name="lora"), result(name="$\\alpha$_x", method="full")]))
    assert "full fine-tuning ($\\alpha$_x)" in plot.svg


def test_one_run_without_steps_makes_a_page_too() -> None:
    page = Report.of(results([result("baseline", losses=())], "one")).page()
    assert "Accuracy against training time" in page
    assert "Training loss" not in page
    assert "No run has finished." in Report.of(results([], "none")).page()


def test_many_labels_have_a_matrix_without_numbers_and_too_many_have_none() -> None:
    for count, shown in ((12, True), (40, False)):
        with svg.drawing():
            drawn = predictions.confusion_matrices(
                arms([result(label_names=tuple(f"label {i}" for i in range(count)))])
            )
        assert bool(drawn) == shown


def test_figures_are_raw_numbers_in_csv_and_json_alike() -> None:
    report = Report.of(results([result("full"), result(seed=0, accuracy=0.8), result(seed=1, accuracy=0.9)]))
    files = report.files((CSV, JSON))
    rows = list(csv.DictReader(io.StringIO(files["tables.csv"])))
    assert list(rows[0]) == ["table", "method", "seed", "column", "value"]
    found = {(row["table"], row["method"], row["seed"], row["column"]): row["value"] for row in rows}
    assert float(found["performance", "LoRA", "1", "accuracy"]) == 0.9
    assert float(found["performance", "LoRA", "mean", "accuracy"]) == pytest.approx(0.85)
    assert float(found["performance", "LoRA", "mean", "accuracy_sd"]) == pytest.approx(0.0707, abs=1e-4)
    assert found["cost", "full fine-tuning", "0", "trainable"] == "124441344"
    assert found["memory", "LoRA", "0", "allocated_peak"] == ""
    content = json.loads(files["tables.json"])
    assert list(content) == ["study", "tables", "verdicts", "not_comparable"]
    assert {
        (name, row["method"], str(row["seed"]), column): "" if value is None else str(value)
        for name, table in content["tables"].items()
        for row in table
        for column, value in row.items()
        if column not in ("method", "seed")
    } == found
    low, high = (content["tables"]["performance"][0][f"accuracy_{end}"] for end in ("low", "high"))
    assert low < 0.6 < high
