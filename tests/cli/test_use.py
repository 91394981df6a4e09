"""What the command line tells a user to type next, and that it works; adapters by the directory of what made them."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

from afina import Backbone, Results
from afina.data.reading_options import ReadingOptions
from afina.studies.descriptions import StudyRequest
from afina.studies.labelling import find_doubts
from afina.studies.labelling.doubts import DoubtfulLabel, Doubts
from afina.studies.runs.output_directory import OutputDirectory
from afina.studies.runs.record import write_records
from command import Command
from fakes import Runs

SHORT = ("--set", "max_steps=2", "--set", "dtype=float32")


def told(out: str) -> list[str]:
    """The words of the command that is named at the end, for what was trained."""
    line = [line for line in out.splitlines() if line.startswith("To use ")][-1]
    return shlex.split(line.partition(": ")[2])


@pytest.mark.parametrize("method", ["lora", "zero-shot"])
def test_train_prints_the_figure_of_its_method_beside_baselines_and_what_to_type_next(
    afina: Command, gpt2: Backbone, toy: str, method: str
) -> None:
    answer = afina("train", "--task", toy, "--backbone", gpt2.address, "--method", method, *SHORT)
    assert answer.code == 0, answer.err
    (record,) = Results.read("results/train").records
    assert record.method == method, "nothing runs that was not asked for"
    lines = [line for line in answer.out.splitlines() if line]
    assert len(lines) <= 15
    assert lines[0].startswith(f"{record.title}: accuracy {record.accuracy:.4f} (95 % interval ")
    assert re.search(
        r"Without a language model: majority class [\d.]+ and TF-IDF \+ logistic regression [\d.]+\.", answer.out
    )
    assert answer.out.count("95 % interval") == 2, "the figure's, and that of the difference from the best baseline"
    assert (f"on {record.train_examples} texts in " in answer.out) == (record.steps > 0)
    *_, use, more = (line.partition(": ")[2] for line in lines)
    program, *words = shlex.split(use)
    assert (program, words[0], words[-1]) == ("afina", "predict", "Your text.")
    assert Path(words[1]).parent == Path("results/train/adapters")
    assert Path(words[1]).name.startswith(method)
    (line,) = afina(*words).lines()
    assert line["text"] == "Your text."
    assert afina("predict", "results/train", "Your text.").lines() == [line]
    shown = afina(*shlex.split(more)[1:]).out
    assert told(shown) == ["afina", *words]
    evaluated = afina("evaluate", "results/train", "--task", toy, "--method", method, "--json").object()
    assert evaluated == afina("evaluate", words[1], "--task", toy, "--json").object()
    assert method in afina("predict", "results/train", "a", "--method", "lorra").error
    for title in ("Performance", "Parameters and training time", "Memory", "Without a language model"):
        assert re.search(f"^{title}$", shown, re.MULTILINE)
        assert not re.search(f"^{title}$", answer.out, re.MULTILINE)


def test_of_a_study_that_compares_the_method_is_named(afina: Command, gpt2: Backbone, toy: str) -> None:
    content = f'name = "two"\nbackbone = "{gpt2.address}"\ntask = "{toy}"\n[train]\nmax_steps = 2\n[methods.full]\n'
    Path("two.toml").write_text(f"{content}[methods.narrow]\nmethod = 'lora'\nr = 2\n", encoding="utf-8")
    answer = afina("study", "two.toml")
    assert answer.code == 0, answer.err
    words = told(answer.out)
    assert re.search(r"^To use (full fine-tuning|LoRA): ", answer.out, re.MULTILINE)
    assert words[:4] == ["afina", "predict", str(Path("results/two")), "--method"]
    assert words[4] in ("full", "narrow")
    assert afina(*words[1:]).lines()
    assert afina("predict", "results/two", "a", "--method", "full").code == 0
    told_of = "results/two: several adapters. Choose with --method: full, narrow."
    assert afina("predict", "results/two", "a").error == told_of


def test_of_pairs_of_texts_answers_the_pair_that_the_line_names(afina: Command, gpt2: Backbone) -> None:
    rows = "".join(f"claim {n},answer {n},{'yes' if n % 2 else 'no'}\n" for n in range(40))
    Path("pairs.csv").write_text(f"text,text_pair,label\n{rows}", encoding="utf-8")
    answer = afina("train", "--task", "pairs.csv", "--text-pair", "text_pair", "--text", "text", *SHORT,
                   "--backbone", gpt2.address)  # fmt: skip
    assert answer.code == 0, answer.err
    *command, option, first, second = told(answer.out)[1:]
    assert (option, first, second) == ("--pair", "First text.", "Second text.")
    (line,) = afina(*command, option, first, second).lines()
    assert (line["text"], line["text_pair"], line["label"] in ("yes", "no")) == (first, second, True)
    assert "--pair" in afina(*command, first, second).error
    assert "found texts and a pair" in afina(*command, "a text", option, first, second).error


def test_a_folder_in_which_nothing_finished_says_so(afina: Command, gpt2: Backbone, toy: str) -> None:
    failing = ("--set", "learning_rate=1e30", "--set", "clip=1e30", "--set", "max_steps=4")
    assert afina("train", "--task", toy, "--backbone", gpt2.address, *failing).code == 2
    assert "no finished run to show" in afina("show", "results/train").error
    assert afina("train", "--task", toy, "--backbone", gpt2.address, *SHORT).code == 0
    assert afina("train", "--task", toy, "--backbone", gpt2.address, *failing).code == 2
    shown = afina("show", "results/train").out
    assert "Every run failed." in shown
    assert "Failed: lora, seed 0: " in shown
    assert afina("predict", "results/train", "a text").lines()


@pytest.mark.parametrize("option", ["--text", "--text-pair"])
def test_a_column_without_a_file_is_refused(afina: Command, option: str) -> None:
    error = afina("predict", "results/train", "a text", option, "review").error
    assert error == f"{option} review: names a column of a --file, but no file is given. Leave {option} out."


def test_a_key_of_a_section_is_looked_for_in_the_sections(afina: Command) -> None:
    error = afina("study", "quickstart", "--set", "max_steps=2").error
    assert error == "preset quickstart: unknown key 'max_steps'. Did you mean 'train.max_steps'?"


def test_a_seed_below_zero_is_refused(afina: Command, toy: str) -> None:
    assert "'--seed'" in afina("train", "--task", toy, "--seed", "-1").error
    told_of = afina("study", "quickstart", "--set", "seeds=[-1]").error
    assert told_of == "preset quickstart: seeds = -1: expected whole numbers from 0 to 2**63 - 1."


def test_a_file_without_a_text_is_told(afina: Command, runs: Runs) -> None:
    Path("empty.txt").write_text("\n", encoding="utf-8")
    Path("nothing.txt").write_text("", encoding="utf-8")
    for name, told_of in (("nothing.txt", "nothing.txt: the file has no text"), ("empty.txt", "1")):
        answer = afina("predict", runs.adapter("gpt2", "lora"), "--file", name)
        assert (answer.code, answer.out.count("null")) == (0, 3 * (name == "empty.txt"))
        assert told_of in answer.err


def test_each_command_says_which_of_several_trainings_of_a_method_it_takes(
    afina: Command, runs: Runs, toy: str, tmp_path: Path
) -> None:
    made, out = runs.record("gpt2", "lora"), Path("results/train")
    directory = OutputDirectory(out)
    earlier = made.model_copy(
        update={"key": "earlier", "adapter": "adapters/none", "training": made.training | {"max_steps": 2}}
    )
    head = runs.record("gpt2", "head")
    for one in (made, head):
        shutil.copytree(runs.root / "gpt2" / one.adapter, out / one.adapter)
    write_records(directory.records, [one.sealed() for one in (earlier, made, head)])
    request = StudyRequest(
        name="train", task=toy, data=ReadingOptions(), keys=(head.key,), names=(head.name,), study={}
    )
    directory.study.write_text(request.model_dump_json(), encoding="utf-8")
    for command in (
        ("predict", out, "A text.", "--method", "lora"),
        ("evaluate", out, "--task", toy, "--method", "lora", "--seed", made.seed),
        ("store", "--store", tmp_path / "store", "publish", out, "a/b", "--method", "lora", "--message", "m"),
    ):
        answer = afina(*command)
        assert answer.code == 0, answer.err
        (note,) = [line for line in answer.err.splitlines() if line.startswith(f"Note: {out}: 2 runs of lora match")]
        assert f"Taken: {made.adapter} (max_steps 6)" in note
        assert "Others: adapters/none (max_steps 2)" in note
    assert "Note" not in afina("predict", out, "A text.").err, "the last request has one run, of another method"


def test_the_list_of_doubtful_labels_goes_into_a_csv_file_that_is_named(
    afina: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    texts = tmp_path / "a.csv"
    texts.write_text("text,label\n" + "".join(f"text {n},{'bad' if n % 2 else 'good'}\n" for n in range(20)))
    figures: dict[str, Any] = {
        "train": 16,
        "evaluation": 4,
        "metric": "accuracy",
        "value": 0.8,
        "gain": 0.5,
        "folds": 5,
    }
    label = DoubtfulLabel(
        file="a.csv",
        row=1,
        training=True,
        text="text 1",
        label="bad",
        suggested="good",
        probability=0.9,
        reason="model",
    )
    made = Doubts(
        task="a.csv", kind="classes", method="linear_probe", backbone="minilm", seed=0, labels=(label,), **figures
    )

    def found(*given: Any, out: Path, **options: Any) -> Doubts:
        made.write(out)
        return made

    monkeypatch.setattr(find_doubts, "doubts", found)
    answer = afina("doubts", "a.csv", "--out", "wrong.csv")
    assert answer.out.endswith(
        "--without wrong.csv\nWritten: results/doubts/doubts.html, wrong.csv, results/doubts/doubts.json\n"
    )
    assert Path("wrong.csv").read_bytes() == Path("results/doubts/doubts.csv").read_bytes()
    assert afina("doubts", "a.csv", "--out", "wrong.csv").code == 0
    Path("texts.csv").write_text("text,label\nGood,bad\n")
    assert "exists already, and is left as it is" in afina("doubts", "a.csv", "--out", "texts.csv").error
    assert Path("texts.csv").read_text() == "text,label\nGood,bad\n"
    (tmp_path / "named.csv").mkdir()
    afina("doubts", "a.csv", "--out", "named.csv")
    assert (tmp_path / "named.csv" / "doubts.csv").is_file()
