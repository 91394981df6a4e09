"""GLUE's tasks: from the Hub and from files of GLUE's own form, with its names, its order and its measures."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from afina import Task
from afina.data.addresses import check_address, is_at_hand, named
from afina.data.reading_options import ReadingOptions
from afina.errors import InvalidData, NotFound, UnknownName
from afina.report.examples.disagreements import EvaluationTexts
from hubs import Hub, classes, written
from raises import raises


@dataclass(frozen=True)
class Written:
    """A task as GLUE writes it down.

    hub         the columns of its texts there
    header      of its own files; "" where they have none
    line        one of its own files' lines, of texts and label
    labels      as its own files have them, in the order of the Hub's numbers
    split, dev  what is evaluated, there and here
    """

    names: tuple[str, ...]
    metric: str
    hub: tuple[str, ...]
    header: str
    line: str
    labels: tuple[str, ...]
    split: str = "validation"
    dev: str = "dev.tsv"


MNLI = Written(
    ("entailment", "neutral", "contradiction"),
    "accuracy",
    ("premise", "hypothesis"),
    "index\tpromptID\tgenre\tsentence1_parse\tsentence2_parse\tsentence1\tsentence2\tlabel1\tgold_label",
    '{i}\t31193n\tfiction\t( " a )\t( b )\t{a}\t{b}\tneutral\t{label}',
    ("entailment", "neutral", "contradiction"),
    "validation_matched",
    "dev_matched.tsv",
)
ENTAILED = ("entailment", "not_entailment")
TASKS = {
    "cola": Written(("unacceptable", "acceptable"), "mcc", ("sentence",), "", "gj04\t{label}\t*\t{a}", ("0", "1")),
    "sst2": Written(("negative", "positive"), "accuracy", ("sentence",), "sentence\tlabel", "{a}\t{label}", ("0", "1")),
    "mrpc": Written(
        ("not_equivalent", "equivalent"),
        "f1",
        ("sentence1", "sentence2"),
        "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String",
        "{label}\t7{i}\t8{i}\t{a}\t{b}",
        ("0", "1"),
    ),
    "stsb": Written(
        (),
        "pearson",
        ("sentence1", "sentence2"),
        "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore",
        "{i}\tmain-captions\tMSRvid\t2012test\t0001\tnone\tnone\t{a}\t{b}\t{label}",
        ("0.000", "1.250", "5.000"),
    ),
    "qqp": Written(
        ("not_duplicate", "duplicate"),
        "f1",
        ("question1", "question2"),
        "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate",
        "{i}\t1{i}\t2{i}\t{a}\t{b}\t{label}",
        ("0", "1"),
    ),
    "mnli": MNLI,
    "mnli-mm": replace(MNLI, split="validation_mismatched", dev="dev_mismatched.tsv"),
    "qnli": Written(
        ENTAILED,
        "accuracy",
        ("question", "sentence"),
        "index\tquestion\tsentence\tlabel",
        "{i}\t{a}\t{b}\t{label}",
        ENTAILED,
    ),
    "rte": Written(
        ENTAILED,
        "accuracy",
        ("sentence1", "sentence2"),
        "index\tsentence1\tsentence2\tlabel",
        "{i}\t{a}\t{b}\t{label}",
        ENTAILED,
    ),
    "wnli": Written(
        ("not_entailment", "entailment"),
        "accuracy",
        ("sentence1", "sentence2"),
        "index\tsentence1\tsentence2\tlabel",
        "{i}\t{a}\t{b}\t{label}",
        ("0", "1"),
    ),
}
SIZES = {"train": 9, "evaluation": 6}


def texts(split: str, which: str) -> list[str]:
    """Quotation marks as they come: alone, at the beginning, around a text, and a U+0085 inside."""
    forms = ('{} {} said " no ', '"{} {} began', '"{} {} whole"', '{} {} next\x85line , ""')
    return [forms[i % 4].format(which, f"{split} {i}") for i in range(SIZES[split])]


def label(task: Written, i: int) -> int:
    return i % len(task.labels)


def on_the_hub(name: str, task: Written) -> dict[str, bytes]:
    """Its files there, one of the other splits, and one of another task."""
    config = name.removesuffix("-mm")
    feature = {"label": classes(*task.names) if task.names else {"dtype": "float32", "_type": "Value"}}
    files = {}
    for split, place in (("train", "train"), ("evaluation", task.split)):
        columns: dict[str, list[Any]] = {
            column: texts(split, which) for column, which in zip(task.hub, "ab", strict=False)
        }
        numbers = [label(task, i) for i in range(SIZES[split])]
        columns["label"] = numbers if task.names else [float(task.labels[number]) for number in numbers]
        columns["idx"] = list(range(SIZES[split]))
        files[f"{config}/{place}-00000-of-00001.parquet"] = written(columns, feature)
        files[f"{config}/test-00000-of-00001.parquet"] = b"not asked for"
    return files | {"ax/test-00000-of-00001.parquet": b"not asked for"}


def own_files(directory: Path, task: Written, names: tuple[str, str] = ("train.tsv", "")) -> Path:
    """Its files in the form of GLUE's download."""
    directory.mkdir()
    for split, name in (("train", names[0]), ("evaluation", names[1] or task.dev)):
        lines = [task.header] if task.header else []
        lines += [
            task.line.format(i=i, a=a, b=b, label=task.labels[label(task, i)])
            for i, (a, b) in enumerate(zip(texts(split, "a"), texts(split, "b"), strict=True))
        ]
        (directory / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return directory


@pytest.fixture
def glue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """A Hub that can be reached, and serves all of GLUE."""
    made = Hub(tmp_path / "hub").install(monkeypatch)
    made.sets["nyu-mll/glue", None] = {
        file: content for name, task in TASKS.items() for file, content in on_the_hub(name, task).items()
    }
    return made


def check(task: Task, name: str) -> None:
    """Texts, labels, names and measure of a task are GLUE's."""
    expected = TASKS[name]
    assert task.metric == expected.metric
    assert task.leaked == 0
    assert task.ceiling == {}
    for split, found in (("train", task.train), ("evaluation", task.evaluation)):
        assert list(found.texts) == texts(split, "a")
        if len(expected.hub) == 2:
            assert list(found.pairs or ()) == texts(split, "b")
        else:
            assert found.pairs is None
        numbers = [label(expected, i) for i in range(SIZES[split])]
        if expected.names:
            assert (task.kind, task.label_names) == ("classes", expected.names)
            assert found.labels.tolist() == numbers
        else:
            assert (task.kind, task.label_names) == ("number", ("similarity",))
            assert found.labels.tolist() == [float(expected.labels[number]) for number in numbers]


@pytest.mark.parametrize("name", TASKS)
def test_a_task_from_glues_own_files_and_from_the_hub_is_the_same(glue: Hub, tmp_path: Path, name: str) -> None:
    directory = own_files(tmp_path / "own", TASKS[name])
    check(Task.load(f"glue/{name}:{directory}"), name)
    assert glue.asked == []
    check(Task.load(f"glue/{name}"), name)
    config, split = name.removesuffix("-mm"), TASKS[name].split
    assert glue.asked == [("nyu-mll/glue", None, [f"{config}/train-*.parquet", f"{config}/{split}-*.parquet"])]


def test_sst2_is_the_task_of_glue(glue: Hub) -> None:
    task, other = Task.load("sst2"), Task.load("glue/sst2")
    assert (task.train.digest, task.evaluation.digest) == (other.train.digest, other.evaluation.digest)
    assert (task.label_names, task.metric, task.address) == (other.label_names, other.metric, "sst2")


def test_a_split_in_several_files_is_read_in_their_order(glue: Hub) -> None:
    files = glue.sets["nyu-mll/glue", None]
    files["sst2/train-00001-of-00002.parquet"] = written({"sentence": ["last "], "label": [1], "idx": [9]})
    assert list(Task.load("sst2").train.texts) == [*texts("train", "a"), "last "]


@pytest.mark.parametrize("error", [ConnectionError("no"), FileNotFoundError("no"), TimeoutError("no")])
def test_a_hub_that_fails_is_told_with_the_way_round(glue: Hub, error: Exception) -> None:
    glue.raised = error
    with raises(NotFound, code="hub.unreachable", repository="nyu-mll/glue") as caught:
        Task.load("sst2")
    first, second = str(caught.value).splitlines()
    absent = "task sst2: the Hub's nyu-mll/glue cannot be reached and no copy is cached"
    assert first == f"{absent} ({type(error).__name__})."
    assert second == "Give a directory with GLUE's own train.tsv and dev.tsv instead: glue/sst2:DIRECTORY."


def test_half_a_copy_is_no_copy_and_a_damaged_one_is_named(glue: Hub) -> None:
    files = glue.sets["nyu-mll/glue", None]
    files["sst2/validation-00000-of-00001.parquet"] = b"not parquet"
    with raises(InvalidData, code="data.file-damaged", path="validation-00000-of-00001.parquet"):
        Task.load("sst2")
    del files["cola/train-00000-of-00001.parquet"]
    with raises(NotFound, code="hub.unreachable", repository="nyu-mll/glue"):
        Task.load("glue/cola")


def test_other_tasks_do_not_import_the_hub() -> None:
    heavy = "{'torch', 'huggingface_hub', 'pyarrow'}"
    check = f"import sys, afina.data.task; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0


def test_labels_may_be_put_in_another_order(glue: Hub) -> None:
    task = Task.load("glue/rte", labels=("not_entailment", "entailment"))
    assert task.label_names == ("not_entailment", "entailment")
    assert (task.train.labels == 1 - Task.load("glue/rte").train.labels).all()
    with raises(InvalidData, code="data.option-inapplicable", labels=["a", "b"]):
        Task.load("glue/stsb", labels=("a", "b"))


def test_mrpc_is_read_from_the_files_that_glue_made_its_own_of(tmp_path: Path) -> None:
    names = ("msr_paraphrase_train.txt", "msr_paraphrase_test.txt")
    directory = own_files(tmp_path / "own", TASKS["mrpc"], names)
    for name in names:  # with a byte order mark, and ends of Windows
        content = (directory / name).read_text(encoding="utf-8").replace("\n", "\r\n")
        (directory / name).write_text(f"\ufeff{content}", encoding="utf-8", newline="")
    check(Task.load(f"glue/mrpc:{directory}"), "mrpc")


@pytest.mark.parametrize("gold", ["-", "-1"])
def test_an_unlabelled_row_of_glues_files_is_left_out(tmp_path: Path, gold: str) -> None:
    directory = own_files(tmp_path / "own", MNLI)
    with (directory / "dev_matched.tsv").open("a", encoding="utf-8") as file:
        file.write(MNLI.line.format(i=99, a="undecided", b="as ever", label=gold) + "\n")
    check(Task.load(f"glue/mnli:{directory}"), "mnli")


def test_an_unlabelled_row_of_the_hubs_files_is_left_out(glue: Hub) -> None:
    file = "mnli/train-00001-of-00002.parquet"
    glue.sets["nyu-mll/glue", None][file] = written(
        {"premise": ["undecided"], "hypothesis": ["as ever"], "label": [-1], "idx": [9]},
        {"label": classes(*MNLI.names)},
    )
    check(Task.load("glue/mnli"), "mnli")


def test_a_few_lines_that_are_too_short_are_left_out_and_many_are_told(tmp_path: Path) -> None:
    task = TASKS["qqp"]
    directory = own_files(tmp_path / "own", task)
    line = task.line.format(i="{i}", a="text {i}", b="other {i}", label="1")
    more = [line.format(i=i) for i in range(200)] + ["7\t8"]
    with (directory / "train.tsv").open("a", encoding="utf-8") as file:
        file.write("\n".join(more) + "\n\n")
    assert len(Task.load(f"glue/qqp:{directory}").train) == SIZES["train"] + 200
    with (directory / "train.tsv").open("a", encoding="utf-8") as file:
        file.write("7\t8\n" * 9)
    with raises(InvalidData, code="data.row-malformed", path="train.tsv", line=211, rows=10):
        Task.load(f"glue/qqp:{directory}")


@pytest.mark.parametrize(
    ("name", "old", "new", "told"),
    [
        (
            "rte",
            "not_entailment\n",
            "neutral\n",
            "line 3: label 'neutral', expected one of entailment, not_entailment or",
        ),
        ("stsb", "1.250\n", "six\n", "line 3: 'six', expected a number from 0 to 5."),
        ("stsb", "1.250\n", "5.001\n", "line 3: '5.001', expected a number from 0 to 5."),
        (
            "qnli",
            "question",
            "query",
            "line 1: no column 'question'. Found: index, query, sentence, label. Expected GLUE's",
        ),
    ],
)
def test_what_is_not_glues_is_told_with_its_line(tmp_path: Path, name: str, old: str, new: str, told: str) -> None:
    directory = own_files(tmp_path / "own", TASKS[name])
    path = directory / "train.tsv"
    path.write_text(path.read_text(encoding="utf-8").replace(old, new, 1), encoding="utf-8")
    with pytest.raises(InvalidData, match=re.escape(f"train.tsv, {told}")):
        Task.load(f"glue/{name}:{directory}")


def test_a_file_without_labels_is_told(tmp_path: Path) -> None:
    task = TASKS["wnli"]
    directory = own_files(tmp_path / "own", task)
    (directory / "dev.tsv").write_text(f"{task.header}\n1\ta\tb\t-1\n", encoding="utf-8")
    with raises(InvalidData, code="data.no-labels", path="dev.tsv"):
        Task.load(f"glue/wnli:{directory}")


def test_a_directory_that_lacks_a_file_is_told_before_anything_is_read(tmp_path: Path) -> None:
    directory = own_files(tmp_path / "own", MNLI)
    address = f"glue/mnli-mm:{directory}"
    for ask in (check_address, Task.load):
        with pytest.raises(NotFound) as caught:
            ask(address)
        assert str(caught.value) == (
            f"task {address}: {directory}: no dev_mismatched.tsv. Found: dev_matched.tsv, train.tsv. Expected GLUE's "
            "train.tsv and dev_mismatched.tsv."
        )
    for place in (tmp_path / "gone", directory / "train.tsv"):
        with raises(NotFound, code="task.missing", path=place.name, expected="train.tsv and dev.tsv"):
            check_address(f"glue/cola:{place}")


@pytest.mark.parametrize(
    ("address", "near"), [("glue/colla", "glue/cola"), ("glue/mnli_mm:some/where", "glue/mnli-mm")]
)
def test_an_unknown_task_of_glue_names_the_nearest(address: str, near: str) -> None:
    for ask in (check_address, Task.load):
        with raises(UnknownName, code="name.unknown", kind="task", nearest=near):
            ask(address)


def test_columns_cannot_be_chosen(glue: Hub) -> None:
    with raises(InvalidData, code="data.option-inapplicable", option="label", task="glue/cola"):
        Task.load("glue/cola", label="label")
    with raises(InvalidData, code="data.kind-mismatch", task="glue/cola", found="classes", expected="number"):
        Task.load("glue/cola", kind="number")
    assert Task.load("glue/cola", kind="classes").kind == "classes"


def test_what_is_at_hand_is_told_without_the_network(glue: Hub, tmp_path: Path) -> None:
    assert is_at_hand(f"glue/rte:{tmp_path}")
    assert not is_at_hand("glue/rte")
    assert not is_at_hand("sst2")
    assert glue.asked == []
    Task.load("glue/rte")
    glue.answers = False
    assert is_at_hand("glue/rte")
    assert not is_at_hand("glue/wnli")
    check(Task.load("glue/rte"), "rte")
    check(Task.load("glue/rte", offline=True), "rte")
    with raises(NotFound, code="hub.unreachable", file="wnli/train-*.parquet", repository="nyu-mll/glue"):
        Task.load("glue/wnli")


def test_offline_the_hub_is_not_asked_though_it_answers(glue: Hub) -> None:
    with raises(NotFound, code="hub.unreachable", repository="nyu-mll/glue"):
        Task.load("glue/cola", offline=True)
    assert glue.asked == []


def test_a_report_reads_what_is_cached_and_asks_nobody(glue: Hub) -> None:
    assert EvaluationTexts.read("glue/rte", ReadingOptions()).reason.startswith("the task is not on this machine")
    digest = Task.load("glue/rte").evaluation.digest
    asked = list(glue.asked)
    found = EvaluationTexts.read("glue/rte", ReadingOptions())
    assert (found.digest, glue.asked) == (digest, asked)
    assert found.texts is not None
    assert found.texts[1] == '"a evaluation 1 began ⏎ "b evaluation 1 began'


def test_a_file_may_stand_in_for_the_evaluation_split(glue: Hub, tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("text,text_pair,label\none,two,entailment\nthree,four,not_entailment\n", encoding="utf-8")
    task = Task.load("glue/rte", evaluation=str(path))
    assert (len(task.train), task.evaluation.labels.tolist()) == (SIZES["train"], [0, 1])


@pytest.mark.parametrize(
    "address", ["cola", "sst2:somewhere", "glue/sst2:", "snippets:glue/sst2", "glue/", "GLUE/sst2"]
)
def test_what_is_no_name_names_no_origin(address: str) -> None:
    assert named(address) is None
