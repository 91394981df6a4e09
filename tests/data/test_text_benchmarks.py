"""ACLSum, E2E and SQuAD: which files are read, how they are divided, and what is told of files that are not theirs."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from afina import assets
from afina.data.addresses import check_address, is_at_hand, is_pinned, moved, names_file, own_files
from afina.data.task import Task
from afina.errors import InvalidData, NotFound, UnknownName
from raises import raises

SHARED = Path(__file__).parents[3] / "shared" / "data"


# ACLSum


@pytest.fixture
def papers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with papers of our own in the form of ACLSum's."""
    monkeypatch.setenv("AFINA_CACHE", str(tmp_path))
    folder = tmp_path / "assets" / "aclsum" / assets.ASSETS["aclsum"].version
    folder.mkdir(parents=True)
    for split, count in (("train", 6), ("val", 3), ("test", 4)):
        made = [
            {
                "id": f"{split}-{i}",
                "title": "t",
                "summary": {aspect: f"{aspect} {split} {i}" for aspect in ("challenge", "approach", "outcome")},
                "sentences": {
                    section: [f"{section} {split} {i} .", "More ."]
                    for section in ("abstract", "introduction", "conclusion")
                },
            }
            for i in range(count)
        ]
        (folder / f"{split}.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in made), encoding="utf-8")
    return folder


def test_aclsum_trains_on_its_training_split_and_evaluates_on_its_test_split(papers: Path) -> None:
    task = Task.load("aclsum:approach")
    assert (task.kind, task.label_names, task.metric) == ("text", ("approach",), None)
    assert (len(task.train), len(task.evaluation)) == (6, 4)
    assert task.columns == {"text": "document", "target": "approach"}
    assert task.train[0].text == "abstract train 0 . More ."
    assert task.train[0].label == ("approach train 0",)
    assert task.evaluation[3].label == ("approach test 3",)
    whole = Task.load("aclsum:outcome-full")
    assert (
        whole.train[1].text == "abstract train 1 . More .\nintroduction train 1 . More .\nconclusion train 1 . More ."
    )
    assert whole.train[1].label == ("outcome train 1",)
    assert is_pinned("aclsum:outcome")
    assert own_files("aclsum:outcome") == []


def test_aclsum_has_three_aspects(papers: Path) -> None:
    with pytest.raises(UnknownName, match="aclsum:challeng'"):
        Task.load("aclsum:challeng")
    with raises(InvalidData, code="data.option-inapplicable", option="target"):
        Task.load("aclsum:challenge", target="outcome")
    with raises(InvalidData, code="data.kind-mismatch"):
        Task.load("aclsum:challenge", kind="classes")
    assert Task.load("aclsum:challenge", kind="text").kind == "text"


def test_aclsum_is_not_fetched_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AFINA_CACHE", str(tmp_path))
    assert not is_at_hand("aclsum:challenge")
    with raises(NotFound, code="asset.unavailable"):
        Task.load("aclsum:challenge", offline=True)


@pytest.mark.slow
def test_the_published_papers_are_250_with_a_summary_of_each_aspect() -> None:
    try:
        assets.fetch("aclsum")
    except NotFound as error:
        pytest.skip(f"the papers cannot be had here: {error}")
    for aspect in ("challenge", "approach", "outcome"):
        task = Task.load(f"aclsum:{aspect}")
        assert (len(task.train), len(task.evaluation), task.leaked) == (100, 100, 0)
        assert max(len(label[0].split()) for label in task.train.labels) == 25


# E2E


def restaurants(path: Path, word: str, inputs: int = 8, references: int = 2) -> Path:
    """A csv file of the E2E challenge."""
    rows = [(f"name[{word} {i}]", f"{word} {i} is number {r}") for i in range(inputs) for r in range(references)]
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("mr", "ref"), *rows])
    return path


@pytest.mark.parametrize(
    ("names", "train", "evaluation"),
    [
        (("trainset", "devset", "testset_w_refs", "testset"), "trainset", "testset_w_refs"),
        (("trainset", "devset"), "trainset", "devset"),
        (("trainset", "testset"), "trainset", "testset"),
        (("devset", "testset"), "devset", "testset"),
    ],
)
def test_the_files_of_e2e_are_read_that_are_there(
    tmp_path: Path, names: tuple[str, ...], train: str, evaluation: str
) -> None:
    for name in names:
        restaurants(tmp_path / f"{name}.csv", name)
    task = Task.load(f"e2e:{tmp_path}")
    assert (task.kind, task.metric, task.label_names) == ("text", "bleu", ("ref",))
    assert task.train[0].text == f"name[{train} 0]"
    assert len(task.train) == 16
    assert task.evaluation[0].label == (f"{evaluation} 0 is number 0", f"{evaluation} 0 is number 1")
    assert own_files(f"e2e:{tmp_path}") == [tmp_path / f"{train}.csv", tmp_path / f"{evaluation}.csv"]


def test_one_file_of_e2e_is_cut_by_input(tmp_path: Path) -> None:
    path = restaurants(tmp_path / "mine.csv", "a", inputs=10)
    task = Task.load(f"e2e:{path}")
    assert (len(task.train), len(task.evaluation)) == (16, 2)
    assert not {*task.train.texts} & {*task.evaluation.texts}
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    path.rename(elsewhere / path.name)
    with raises(NotFound, code="task.missing"):
        check_address(f"e2e:{path}")
    assert names_file(f"e2e:{elsewhere / path.name}")
    assert moved(f"e2e:{elsewhere / path.name}", tmp_path / "to", single=True) == f"e2e:{tmp_path / 'to' / path.name}"
    restaurants(elsewhere / "devset.csv", "a", inputs=10)
    assert not names_file(f"e2e:{elsewhere}")
    assert moved(f"e2e:{elsewhere}", tmp_path, single=False) == f"e2e:{tmp_path}"
    assert Task.load(f"e2e:{elsewhere}").data_digest == task.data_digest


def test_a_place_without_files_of_e2e_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("mr,ref\na,b\n", encoding="utf-8")
    with raises(NotFound, code="task.missing") as raised:
        check_address(f"e2e:{tmp_path}")
    assert str(raised.value).startswith(f"task e2e:{tmp_path}: {tmp_path}: no trainset.csv, devset.csv. Found: a.csv.")
    (tmp_path / "devset.csv").write_text("mr,text\na,b\n", encoding="utf-8")
    with raises(InvalidData, code="data.column-missing"):
        Task.load(f"e2e:{tmp_path}")


@pytest.mark.skipif(not (SHARED / "e2e").is_dir(), reason="the files of E2E are not here")
def test_the_published_test_inputs_are_read_with_all_their_references() -> None:
    task = Task.load(f"e2e:{SHARED / 'e2e'}")
    assert (len(task.train), len({*task.train.texts}), len(task.evaluation)) == (4672, 547, 315)
    assert task.leaked == 0


# SQuAD


def article(number: int, questions: int = 3, answers: int = 1) -> dict[str, Any]:
    qas = [
        {
            "id": f"{number}-{k}",
            "question": f"What is {number} {k}?",
            "answers": [{"text": f"{number} {k} {a}", "answer_start": 0} for a in range(answers)],
        }
        for k in range(questions)
    ]
    return {"title": f"Article_{number}", "paragraphs": [{"context": f"About {number}.", "qas": qas}]}


def squad(path: Path, articles: list[dict[str, Any]]) -> Path:
    """A json file of SQuAD."""
    path.write_text(json.dumps({"version": "1.1", "data": articles}), encoding="utf-8")
    return path


def test_one_file_of_squad_is_cut_by_article(tmp_path: Path) -> None:
    path = squad(tmp_path / "mine.json", [article(i, answers=2) for i in range(20)])
    task = Task.load(f"squad:{path}", selection=0.3)
    assert (task.kind, task.metric) == ("text", "token_f1")
    assert len(task.evaluation) == 12
    assert task.selection is not None
    splits = (task.train, task.selection, task.evaluation)
    articles = [{example.text for example in split} for split in splits]
    assert sum(map(len, articles)) == len(set().union(*articles)) == 20
    assert {len(label) for label in task.evaluation.labels} == {2}
    assert {len(label) for label in task.train.labels} == {1}
    assert task.train.pairs is not None
    assert task.train.pairs[0].startswith("What is ")


def test_a_directory_of_squad_has_a_file_to_train_on_and_one_to_evaluate(tmp_path: Path) -> None:
    squad(tmp_path / "train-v1.1.json", [article(i) for i in range(5)])
    squad(tmp_path / "dev-v1.1.json", [article(i) for i in range(5, 7)])
    task = Task.load(f"squad:{tmp_path}")
    assert (len(task.train), len(task.evaluation)) == (15, 6)
    squad(tmp_path / "dev-v2.0.json", [])
    with raises(InvalidData, code="task.files-ambiguous"):
        check_address(f"squad:{tmp_path}")


def test_questions_without_an_answer_are_left_out_and_counted(tmp_path: Path) -> None:
    articles = [article(i) for i in range(5)]
    articles[2]["paragraphs"][0]["qas"][1] |= {"answers": [], "is_impossible": True}
    path = squad(tmp_path / "a.json", articles)
    task = Task.load(f"squad:{path}")
    assert len(task.train) + len(task.evaluation) == 14
    assert f"{path}: 1 of 15 questions have no answer and are left out." in task.told
    with raises(InvalidData, code="data.no-rows"):
        Task.load(f"squad:{squad(path, [article(i, answers=0) for i in range(5)])}")


@pytest.mark.parametrize(
    ("content", "place"),
    [
        ('{"data": [', ": not JSON"),
        ("\xff", ": not JSON"),
        ("[]", ": expected a list `data`"),
        ('{"data": {}}', ": expected a list `data`"),
        ('{"data": [{"title": "a"}]}', ", article 1: expected a list `paragraphs`"),
        ('{"data": [{"paragraphs": [{"qas": []}]}]}', ", article 1, paragraph 1: expected a text `context`"),
        ('{"data": [{"paragraphs": [{"context": "a"}]}]}', ", article 1, paragraph 1: expected a list `qas`"),
        (
            '{"data": [{"paragraphs": [{"context": "a", "qas": [{"question": "b"}]}]}]}',
            ", article 1, paragraph 1, question 1: expected a list `answers`, as in a json file of SQuAD, but there is",
        ),
        (
            '{"data": [{"paragraphs": [{"context": "a", "qas": [{"question": 3, "answers": []}]}]}]}',
            ", article 1, paragraph 1, question 1: expected a text `question`, as in a json file of SQuAD, but found a",
        ),
        (
            '{"data": [{"paragraphs": [{"context": "a", "qas": [{"question": "b", "answers": ["c"]}]}]}]}',
            ", article 1, paragraph 1, question 1, an answer: expected a text `text`",
        ),
    ],
)
def test_what_is_no_file_of_squad_is_refused(tmp_path: Path, content: str, place: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(content, encoding="latin-1")
    with raises(InvalidData, code="data.row-malformed") as raised:
        Task.load(f"squad:{path}")
    assert str(raised.value).startswith(f"{path}{place}")


def test_a_place_without_files_of_squad_is_told(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "nothing"):
        with raises(NotFound, code="task.missing"):
            check_address(f"squad:{place}")
    with pytest.raises(UnknownName):
        check_address("squad:")


@pytest.mark.skipif(not (SHARED / "xquad").is_dir(), reason="the file of XQuAD is not here")
def test_xquad_has_an_answer_to_each_of_1190_questions() -> None:
    task = Task.load(f"squad:{SHARED / 'xquad' / 'xquad.en.json'}")
    assert len(task.train) + sum(map(len, task.evaluation.labels)) == 1189  # two questions are the same
    assert task.train.groups is not None
    assert task.evaluation.groups is not None
    assert (len({*task.train.groups}), len({*task.evaluation.groups})) == (38, 10)
