"""`afina compare A B --task FILE`: two adapters outside a store, with the verdict of a study."""

from __future__ import annotations

import inspect
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from afina import Adapter
from afina.data.evaluation_set import EvaluationSet
from afina.models.manifest import MANIFEST
from afina.predicting.evaluation import evaluate, trained
from afina.stats.comparison import compare
from afina.stats.metrics import METRICS
from afina.store.adapter_store import AdapterStore
from command import Command
from fakes import Runs, sentences, write_csv


@pytest.fixture
def both(runs: Runs) -> tuple[Path, Path]:
    return runs.adapter("gpt2", "lora"), runs.adapter("gpt2", "head")


@pytest.fixture
def more() -> str:
    """Sixty texts, of which no adapter was trained on the last forty."""
    return str(write_csv(Path("more.csv"), [(text, ("bad", "good")[label]) for text, label in sentences(180)[120:]]))


def test_the_verdict_is_that_of_a_comparison_of_the_same_answers(
    afina: Command, both: tuple[Path, Path], more: str
) -> None:
    found = afina("compare", *both, "--task", more, "--json").object()
    alone = [evaluate(one, EvaluationSet.read(more, trained(one))) for one in map(Adapter.load, both)]
    assert found["figures"] == [one.metrics["accuracy"] for one in alone]
    values = {str(both[1]): METRICS["accuracy"].values(alone[1].answered)}  # type: ignore[misc]
    values[str(both[0])] = METRICS["accuracy"].values(alone[0].answered)  # type: ignore[misc]
    (expected,) = compare(values)
    assert (found["verdict"], found["p"], found["words"]) == (expected.verdict, expected.p, expected.words)
    assert (found["first"], found["second"]) == tuple(map(str, both))
    assert found["left_out"] == found["leaked"]
    shown = afina("compare", *both, "--task", more).out
    assert f"{both[0]}: accuracy {alone[0].metrics['accuracy']:.4f} on {alone[0].examples} texts of more.csv" in shown
    assert "predictions flip" in shown
    assert expected.words.split(":")[0] in " ".join(shown.split())


def test_one_may_stand_in_a_store_and_texts_that_either_saw_are_left_out(
    afina: Command, both: tuple[Path, Path], runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AFINA_STORE", str(tmp_path / "store"))
    AdapterStore(tmp_path / "store").publish(both[1], "acme/reviews", message="first")
    found = afina("compare", both[0], "store:acme/reviews@1", "--task", runs.task, "--json").object()
    assert found["second"] == "store:acme/reviews@1"
    assert (found["examples"], found["left_out"]) == (24, 0), "what training left out of its own file"
    kept = afina(
        "compare", both[0], both[0], "--task", runs.task, "--positive", "bad", "--metric", "f1", "--json"
    ).object()
    assert (kept["flipped"], kept["difference"]) == (0, 0.0)
    assert "F1 of bad" in afina("compare", *both, "--task", runs.task, "--positive", "bad", "--metric", "f1").out


def test_adapters_of_other_labels_or_kinds_are_refused_before_anything_is_computed(
    afina: Command, both: tuple[Path, Path], more: str, tmp_path: Path
) -> None:
    shutil.copytree(both[1], tmp_path / "other")
    one = Adapter.load(both[1])
    for change, told in (
        (
            {"label_names": ("bad", "fine")},
            f"{both[0]} and other have different labels: only {both[0]} has good; only other has fine.",
        ),
        ({"objective": {"kind": "labels"}}, f"the kinds of task differ: {both[0]} has classes, other has labels."),
    ):
        changed = one.manifest.model_copy(update={**change, "answers": None, "claims_digest": None})
        content = changed.model_dump(mode="json") | {"digest": changed.digest}
        (tmp_path / "other" / MANIFEST).write_text(json.dumps(content), encoding="utf-8")
        assert afina("compare", both[0], "other", "--task", more).error.startswith(told)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("absent", "--task", "more.csv"), "absent: "),
        (("--task", "gone.csv"), "task gone.csv: no such file"),
        (("--task", "more.csv", "--metric", "rmse"), "--metric rmse: not available for the task's kind, classes"),
        (("--task", "more.csv", "--metric", "nonsense"), "unknown metric"),
        (
            ("--task", "more.csv", "--positive", "fine"),
            "more.csv: --positive 'fine' is not a label.",
        ),
        (("--task", "more.csv", "--text", "body"), "more.csv: no column 'body'"),
    ],
)
def test_what_cannot_be_compared_is_told(
    afina: Command, both: tuple[Path, Path], more: str, arguments: tuple[str, ...], told: str
) -> None:
    second = () if arguments[0] == "absent" else (both[1],)
    assert told in afina("compare", both[0], *second, *arguments).error


def test_the_same_adapter_is_said_to_be_the_same_and_nothing_more(
    afina: Command, both: tuple[Path, Path], more: str
) -> None:
    shown = afina("compare", both[0], both[0], "--task", more).out
    assert shown.splitlines()[-1].endswith(f"are the same adapter, {Adapter.load(both[0]).digest[:19]}.")
    assert "settle" not in shown
    found = afina("compare", both[0], both[0], "--task", more, "--json").object()
    assert (found["verdict"], found["difference"], found["interval"], found["p"]) == ("same", 0.0, None, None)


def test_compare_reads_a_file_as_evaluate_does(afina: Command, both: tuple[Path, Path], tmp_path: Path) -> None:
    rows = [(text, (" Bad", "good")[label]) for text, label in sentences(160)[140:]]
    write_csv(Path("odd.csv"), [*rows, ("", "good"), rows[0]])
    assert "--missing skip" in afina("compare", *both, "--task", "odd.csv").error
    answer = afina("compare", *both, "--task", "odd.csv", "--missing", "skip", "--merge-labels")
    assert answer.code == 0
    assert answer.err == afina("evaluate", both[0], "--task", "odd.csv", "--missing", "skip", "--merge-labels").err
    assert "21 rows, 2 classes (bad, good): kind classes" in answer.err
    assert answer.out.count(" on 21 texts of odd.csv; too few to say anything: below 30") == 2
    assert "1 of 21 texts of odd.csv repeats another text." in answer.out


@pytest.mark.parametrize("command", ["evaluate", "compare", "store diff"])
def test_commands_that_measure_have_every_option_of_reading(command: str) -> None:
    from typer.main import get_command

    from afina import cli

    found: Any = get_command(cli.app)
    for name in command.split():
        found = found.commands[name]
    reading = inspect.signature(EvaluationSet.read).parameters.keys() - {"address", "trained", "options", "kind"}
    assert "merge_labels" in reading
    assert reading <= {one.name for one in found.params}
