"""Texts to measure an adapter on: all of a file, and never silently one that training saw."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from afina.data.evaluation_set import EvaluationSet, TrainingInfo
from afina.data.task import Task
from afina.data.text_hashes import TextHashes
from afina.errors import InvalidData, Leakage, NotFound
from raises import raises

NAMES = ("bad", "good")


def write(path: Path, count: int, word: str = "text", labels: Sequence[object] = NAMES, header: str = "text") -> Path:
    rows = [f"{word} {number},{labels[number % len(labels)]}\n" for number in range(count)]
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"{header},label\n" + "".join(rows), encoding="utf-8")
    return path


def trained(address: Path, **data: object) -> TrainingInfo:
    """On a task that was read so."""
    task = Task.load(str(address), **data)  # type: ignore[arg-type]
    return TrainingInfo(len(task.label_names), task.label_names, str(address), task.data, task.train.digest)


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    return write(tmp_path / "mine.csv", 100)


def test_all_of_another_file_is_read(tmp_path: Path, mine: Path) -> None:
    found = EvaluationSet.read(str(write(tmp_path / "more.csv", 50, "other")), trained(mine))
    assert (len(found.split), found.held_out, found.leaked) == (50, False, 0)
    assert found.where == str(tmp_path / "more.csv")
    assert found.split.labels.tolist() == [0, 1] * 25


@pytest.mark.parametrize("data", [{}, {"labels": ["good", "bad"]}, {"train_examples": 30, "evaluation_examples": 9}])
def test_of_its_own_file_it_is_what_training_left_out(mine: Path, data: dict[str, object]) -> None:
    found, task = EvaluationSet.read(str(mine), trained(mine, **data)), Task.load(str(mine), **data)  # type: ignore[arg-type]
    assert found.held_out
    assert (found.split.digest, found.label_names) == (task.evaluation.digest, task.label_names)
    assert not set(found.split.texts) & set(task.train.texts)


def test_its_own_file_is_known_by_its_content_wherever_it_lies(tmp_path: Path, mine: Path) -> None:
    about = trained(mine)
    mine.rename(tmp_path / "moved.csv")
    assert EvaluationSet.read(str(tmp_path / "moved.csv"), about).held_out


def hashed(address: Path, **data: object) -> TrainingInfo:
    """The same, that has hashes of its training texts; where these are now, it cannot say."""
    about, task = trained(address, **data), Task.load(str(address), **data)  # type: ignore[arg-type]
    return replace(about, trained_on=TextHashes.of(task.train), task="gone.csv")


@pytest.mark.parametrize("known", [trained, hashed])
def test_texts_that_were_trained_on_are_left_out_of_another_file_and_counted(
    tmp_path: Path, mine: Path, known: Callable[[Path], TrainingInfo]
) -> None:
    both = write(tmp_path / "both.csv", 100)
    both.write_text(both.read_text(encoding="utf-8") + "new,good\n", encoding="utf-8")
    found = EvaluationSet.read(str(both), known(mine))
    assert (len(found.split), found.leaked, found.left_out, found.held_out) == (21, 80, 80, False)
    assert not set(found.split.texts) & set(Task.load(str(mine)).train.texts)
    kept = EvaluationSet.read(str(both), known(mine), allow_leakage=True)
    assert (len(kept.split), kept.leaked, kept.left_out) == (101, 80, 0)


def test_rows_appended_to_its_own_file_hide_no_text_that_was_trained_on(mine: Path) -> None:
    about = hashed(mine)
    mine.write_text(mine.read_text(encoding="utf-8") + "new,good\nnewer,bad\n", encoding="utf-8")
    found = EvaluationSet.read(str(mine), about)
    assert (len(found.split), found.left_out) == (22, 80)


def test_what_another_adapter_saw_is_left_out_too(tmp_path: Path, mine: Path) -> None:
    other = write(tmp_path / "other.csv", 60, "other")
    both = tmp_path / "both.csv"
    both.write_text(mine.read_text(encoding="utf-8") + other.read_text(encoding="utf-8").partition("\n")[2])
    found = EvaluationSet.read(str(both), hashed(mine)).unseen_by(hashed(other))
    assert (len(found.split), found.left_out) == (20 + 12, 80 + 48)
    assert EvaluationSet.read(str(both), hashed(mine)).unseen_by(replace(hashed(other), trained_on=None)).leaked is None


def test_where_the_texts_of_training_are_not_as_they_were_nothing_is_claimed(tmp_path: Path, mine: Path) -> None:
    about, more = trained(mine), write(tmp_path / "more.csv", 50, "other")
    write(mine, 90)
    assert EvaluationSet.read(str(more), about).leaked is None
    mine.unlink()
    assert EvaluationSet.read(str(more), about).leaked is None


def test_a_file_all_of_which_was_trained_on_is_refused(tmp_path: Path, mine: Path) -> None:
    held = write(tmp_path / "held.csv", 30, "other")
    about = trained(mine, evaluation=str(held))
    assert (len(EvaluationSet.read(str(held), about).split), EvaluationSet.read(str(held), about).leaked) == (30, 0)
    held.unlink()
    with raises(Leakage, code="data.leakage", where="mine.csv", leaked=100):
        EvaluationSet.read(str(mine), about)


@pytest.mark.parametrize(
    ("stems", "taken"), [(("dev", "test"), "dev"), (("test",), "test"), (("validation", "train"), "validation")]
)
def test_of_a_directory_it_is_the_evaluation_file_and_else_the_test_file(
    tmp_path: Path, mine: Path, stems: tuple[str, ...], taken: str
) -> None:
    for number, stem in enumerate(stems):
        write(tmp_path / "task" / f"{stem}.csv", 10 + number, stem)
    found = EvaluationSet.read(str(tmp_path / "task"), trained(mine))
    assert found.where == str(tmp_path / "task" / f"{taken}.csv")
    assert len(found.split) == 10 + stems.index(taken)


def test_a_directory_without_one_of_them_is_refused(tmp_path: Path, mine: Path) -> None:
    write(tmp_path / "task" / "train.csv", 10)
    with raises(NotFound, code="task.missing", path="task"):
        EvaluationSet.read(str(tmp_path / "task"), trained(mine))


def test_labels_are_matched_by_name_and_some_are_enough(tmp_path: Path, mine: Path) -> None:
    only_good = write(tmp_path / "more.csv", 5, "other", ["good"])
    assert EvaluationSet.read(str(only_good), trained(mine)).split.labels.tolist() == [1] * 5
    numbered = write(tmp_path / "numbered.csv", 100, "text", ["1", "0"])
    about = trained(numbered, labels=["no", "yes"])
    ones = write(tmp_path / "ones.csv", 4, "other", ["1.0", "0"])
    assert EvaluationSet.read(str(ones), about).split.labels.tolist() == [1, 0, 1, 0], "as its own file was read"
    named = write(tmp_path / "named.csv", 4, "other", ["yes", "no"])
    assert EvaluationSet.read(str(named), about).split.labels.tolist() == [1, 0, 1, 0]
    turned = EvaluationSet.read(str(ones), trained(mine), labels=["good", "bad"])
    assert turned.notes == (f"{ones}: the labels have other names than the adapter's: 0 as good, 1 as bad.",)
    assert [turned.label_names[label] for label in turned.split.labels] == ["bad", "good", "bad", "good"]
    assert turned.label_names == ("good", "bad")


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (("no", "yes"), "its labels are no, yes; the adapter's are bad, good. Give texts with the same labels, or"),
        (("bad", "ugly"), "line 3: its labels are bad, ugly; the adapter's are bad, good. Give texts with the same"),
        ((0, 1), "its labels are 0, 1; the adapter's are bad, good. Name the labels 0 to 1 with `labels`, such as"),
        ((3, 4), "its labels are 3, 4; the adapter's are bad, good. Give texts with the same labels, or rename"),
    ],
)
def test_foreign_labels_are_refused(tmp_path: Path, mine: Path, labels: tuple[object, ...], told: str) -> None:
    with pytest.raises(InvalidData) as caught:
        EvaluationSet.read(str(write(tmp_path / "more.csv", 6, "other", labels)), trained(mine))
    assert told in str(caught.value)


def test_columns_are_those_of_its_own_task_where_the_file_has_them(tmp_path: Path) -> None:
    about = trained(write(tmp_path / "mine.csv", 100, header="words"), text="words")
    assert len(EvaluationSet.read(str(write(tmp_path / "more.csv", 5, "other", header="words")), about).split) == 5
    found = EvaluationSet.read(str(write(tmp_path / "more.csv", 5, "other", header="review")), about)
    assert len(found.split) == 5
    assert found.notes == (f"{tmp_path / 'more.csv'}: no column 'words', from which the adapter learnt.",)
