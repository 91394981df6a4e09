"""Every mistake a user can make: exit status 2, a line or two that say what to do, and nothing left behind."""

from __future__ import annotations

import json
import os
import resource
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.main import get_command

from afina import Adapter, Backbone, cli
from command import PROGRAM, Command, copy, left_behind
from fakes import sentences, write_csv

OUT = Path("out")
SHORT = ("--set", "max_steps=4", "--set", "dtype=float32")
NAMED = {0: "bad", 1: "good"}


def rows(count: int = 40, seed: int = 0) -> list[tuple[str, str]]:
    return [(text, NAMED[label]) for text, label in sentences(count, seed)]


def directory(train: list[tuple[str, str]], dev: list[tuple[str, str]], name: str = "task") -> str:
    path = Path(name)
    path.mkdir()
    write_csv(path / "train.csv", train)
    write_csv(path / "dev.csv", dev)
    return name


def test_a_command_in_a_deleted_directory_is_refused(
    afina: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert afina("methods").error == "the current directory was deleted. Change to another directory."


def test_a_python_without_docstrings_is_refused() -> None:
    done = subprocess.run(
        [*PROGRAM, "methods"], env={**os.environ, "PYTHONOPTIMIZE": "2"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "Unset PYTHONOPTIMIZE" in done.stderr


# What a run needs and does not find


@pytest.fixture
def refused(afina: Command, gpt2: Backbone, toy: str) -> Callable[..., str]:
    """The message of `afina train` with one thing wrong; nothing of a result may be there afterwards."""

    def run(*arguments: object, task: str = toy, backbone: str = gpt2.address) -> str:
        answer = afina("train", "--task", task, "--backbone", backbone, "--out", OUT, *SHORT, *arguments)
        assert left_behind(OUT) == set()
        shown = afina("show", OUT)
        assert shown.error.startswith("out: the directory has no records.jsonl")
        return answer.error

    return run


@pytest.mark.slow
@pytest.mark.parametrize(("command", "mebibytes"), [("train", 1800), ("plan", 1250)])
def test_a_process_that_gets_no_more_memory_says_so_in_a_sentence(
    shared: Path, toy: str, tmp_path: Path, command: str, mebibytes: int
) -> None:
    """With room for the libraries, and not for GPT-2's weights, gradients and optimizer state."""
    limit = (mebibytes << 20, mebibytes << 20)
    trains = ["--method", "full", "--set", "max_steps=1", "--out", str(tmp_path / "out")]
    done = subprocess.run(
        [*PROGRAM, command, "--task", toy, "--backbone", f"random:{shared / 'gpt2'}", *trains * (command == "train")],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, limit),
    )
    assert done.returncode == 2, done.stderr
    *_, last = done.stderr.splitlines()
    assert last.startswith("Error: ")
    assert "main memory ran out" in last
    assert "Traceback" not in done.stderr
    assert "a bug" not in done.stderr


def test_a_backbone_whose_weights_are_cut_short(refused: Callable[..., str], gpt2: Backbone, tmp_path: Path) -> None:
    def cut(path: Path) -> None:
        os.truncate(path / "model.safetensors", 1000)

    copy(gpt2.path, tmp_path / "short", cut)
    assert refused(backbone="short").startswith("lora, seed 0: backbone short: its weights cannot be opened (")


def test_evaluation_texts_that_were_trained_on(refused: Callable[..., str], afina: Command, gpt2: Backbone) -> None:
    task = directory(rows(), rows(60))
    told = refused(task=task)
    assert "evaluation texts also occur in the training split; at most 1% may." in told
    assert told.endswith("Remove the duplicates, or pass --allow-leakage to continue.")
    followed = afina(
        "train", "--task", task, "--backbone", gpt2.address, "--out", OUT, *SHORT, "--allow-leakage", "--json"
    )
    assert followed.object()["records"][0]["leaked"] > 0


def test_a_maximum_length_beyond_the_backbones(refused: Callable[..., str], gpt2: Backbone) -> None:
    assert refused("--set", f"max_length={gpt2.longest + 1}") == (
        f"lora, seed 0: train.max_length is {gpt2.longest + 1}, but backbone {gpt2.address} takes at most "
        f"{gpt2.longest} tokens. Set {gpt2.longest} or less."
    )


def test_training_that_diverges_leaves_no_checkpoint_to_diverge_from_again(refused: Callable[..., str]) -> None:
    told = refused(
        *("--method", "full", "--set", "learning_rate=1e30"),
        *("--set", "checkpoint_seconds=0"),
    )
    assert told.startswith("full, seed 0: step ")
    assert told.endswith("Lower the learning rate (it was 1e+30).")


# What is told before anything starts


@pytest.fixture
def untouched(afina: Command, tmp_path: Path) -> Callable[..., str]:
    """The message of a command that must not even make its --out directory."""

    def run(*arguments: object) -> str:
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
        answer = afina(*arguments)
        assert answer.out == ""
        assert answer.err.startswith("Error: ")
        assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
        return answer.error

    return run


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            ("study", "papr"),
            "unknown preset 'papr'. Did you mean 'paper'? Known: backbones, e2e, fair, methods, paper, quickstart.",
        ),
        (
            ("study", "nope.toml"),
            "study file nope.toml does not exist. Give an existing file, or one of the presets: backbones, e2e, fair, "
            "methods, paper, quickstart.",
        ),
        (("study", "quickstart", "--set", "epochs"), "--set epochs: expected key=value, such as train.epochs=1."),
        (
            ("show", "nope"),
            "nope: the directory has no records.jsonl, so there is no finished run to show. Give the OUT of a study "
            "or a recommendation.",
        ),
        (
            ("predict", "nope", "a"),
            "nope: no adapter found: expected manifest.json (afina) or adapter_config.json (peft)",
        ),
        (
            ("predict", "nope"),
            "afina predict: found no texts and no file. Give either texts, or --pair FIRST SECOND, or --file FILE (- "
            "for standard input).",
        ),
        (
            ("predict", "nope", "a", "--file", "b.txt"),
            "afina predict: found texts and a file. Give either texts, or --pair ",
        ),
        (("predict", "nope", "--file", "b.txt"), "--file b.txt: no such file or directory."),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_command_that_cannot_be_meant_starts_nothing(
    untouched: Callable[..., str], arguments: tuple[str, ...], told: str
) -> None:
    assert untouched(*arguments).startswith(told)


def test_results_that_would_go_into_a_file(untouched: Callable[..., str], toy: str, gpt2: Backbone) -> None:
    Path("file").write_text("mine", encoding="utf-8")
    train = ("train", "--task", toy, "--backbone", gpt2.address)
    assert untouched(*train, "--out", "file").startswith("--out file: cannot create this directory (")
    assert untouched(*train, "--out", "file/deeper").startswith("--out file/deeper: cannot create")
    assert Path("file").read_text(encoding="utf-8") == "mine"


def test_records_that_another_program_wrote(afina: Command, gpt2: Backbone, toy: str) -> None:
    OUT.mkdir()
    (OUT / "records.jsonl").write_text('{"accuracy": 1}\n', encoding="utf-8")
    answer = afina("train", "--task", toy, "--backbone", gpt2.address, "--out", OUT, *SHORT)
    assert answer.error.startswith("out/records.jsonl: the results have format None, this version of afina reads ")
    assert answer.error.endswith(" with another --out.")
    assert left_behind(OUT) == {"records.jsonl"}
    assert (OUT / "records.jsonl").read_text(encoding="utf-8") == '{"accuracy": 1}\n'


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("trian",), "No such command 'trian'. Did you mean 'train'?"),
        (
            ("train",),
            "Missing argument 'FILE': no texts with labels are given. Give a file, or --from with the results",
        ),
        (("store", "import"), "Missing: argument 'SOURCE', argument 'NAME', option '--message' / '-m'."),
        (("store", "import", "-m", "x", "peft"), "Missing argument 'NAME'."),
        (("train", "--taks", "x"), "No such option: --taks"),
        (("train", "--task", "x", "--seed", "one"), "Invalid value for '--seed': "),
    ],
)
def test_an_option_or_command_that_does_not_exist(afina: Command, arguments: tuple[str, ...], told: str) -> None:
    answer = afina(*arguments)
    assert (answer.code, answer.out) == (2, "")
    assert told in answer.err.splitlines()[-1]
    assert "Traceback" not in answer.err


# Adapters


def edit_manifest(path: Path, **changes: Any) -> None:
    content: Mapping[str, Any] = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    (path / "manifest.json").write_text(json.dumps({**content, **changes}), encoding="utf-8")


def test_an_adapter_whose_probe_gives_other_logits(afina: Command, trained: Path, tmp_path: Path, toy: str) -> None:
    probe = [list(row) for row in Adapter.load(trained).manifest.probe or ()]
    probe[3][0] += 1

    copy(trained, tmp_path / "other", lambda path: edit_manifest(path, probe=probe))
    assert afina("predict", "other", "a text").code == 0
    told = afina("predict", "other", "a text", "--check-probe").error
    assert told.startswith("other: the golden test's outputs differ by ")
    assert "With the installed libraries, the adapter computes other outputs than when it was made" in told
    assert afina("evaluate", "other", "--task", toy, "--check-probe").error == told


def test_a_task_with_other_labels_than_the_adapters(afina: Command, trained: Path) -> None:
    write_csv(Path("numbers.csv"), [(f"{text}, again", {"bad": 0, "good": 1}[label]) for text, label in rows()])
    assert afina("evaluate", trained, "--task", "numbers.csv").error == (
        "numbers.csv, line 2: its labels are 0, 1; the adapter's are bad, good. "
        "Name the labels 0 to 1 with --labels, such as bad,good."
    )
    assert afina("evaluate", trained, "--task", "numbers.csv", "--labels", "bad,good").code == 0


@pytest.mark.parametrize("command", ["evaluate", "plan", "ask", "choose"])
def test_a_file_that_is_missing_is_told_before_anything_is_loaded(
    afina: Command, trained: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    from afina import Backbone
    from afina.models import backbone

    def load(*_: object, **__: object) -> None:
        pytest.fail("a model was opened")

    monkeypatch.setattr(Backbone, "load", load)
    monkeypatch.setattr(Adapter, "load", load)
    monkeypatch.setattr(backbone, "AutoConfig", None, raising=False)
    arguments = [trained] if command == "evaluate" else ["--backbone", "./nowhere"]
    assert afina(command, *arguments, "--task", "gone.csv").error.startswith("task gone.csv: no such file or directory")


@pytest.mark.parametrize(
    "command",
    [("choose",), ("ask",), ("inspect",), ("doubts",), ("train",), ("evaluate", "adapter"), ("compare", "a", "b")],
    ids=lambda command: command[0],
)
def test_a_task_is_an_argument_or_an_option_and_one_of_the_two(afina: Command, command: tuple[str, ...]) -> None:
    assert afina(*command, "gone.csv").error == afina(*command, "--task", "gone.csv").error
    for given in ((), ("one.csv", "--task", "other.csv")):
        answer = afina(*command, *given, "--json")
        found = json.loads(answer.out)["error"]
        assert (answer.code, found["code"]) == (2, "argument.invalid")
        assert "FILE" in found["message"]
        assert [found["fields"][name] for name in ("found", "other") if given] == [*given[::2]]


@pytest.mark.parametrize("command", [("study", "quickstart"), ("plan",), ("store", "diff", "a/b@1", "a/b@2")])
def test_a_task_that_may_be_left_out_is_an_argument_too(afina: Command, command: tuple[str, ...]) -> None:
    answer = afina(*command, "one.csv", "--task", "other.csv", "--json")
    assert json.loads(answer.out)["error"]["fields"] == {"found": "one.csv", "option": "task", "other": "other.csv"}
    assert afina(*command, "gone.csv").error == afina(*command, "--task", "gone.csv").error


def test_under_json_an_error_is_an_object_on_standard_output(afina: Command) -> None:
    answer = afina("evaluate", "nope", "--task", "mine.csv", "--json")
    told = json.loads(answer.out)["error"]
    assert told["message"] == answer.error
    assert told["class"] == "NotFound"
    assert afina("evaluate", "nope", "--task", "mine.csv").out == ""


def test_under_json_an_error_of_a_store_is_an_object_with_the_flags_of_the_command_line(afina: Command) -> None:
    answer = afina("store", "--store", "nowhere", "show", "a/b", "--json")
    told = json.loads(answer.out)["error"]
    assert told["message"] == answer.error
    assert "Give another with --store" in told["message"]


@pytest.mark.parametrize("group", [cli.app, cli.store.app, cli.keys.app], ids=["afina", "store", "keys"])
def test_every_command_with_json_prints_errors_of_usage_as_json(afina: Command, group: typer.Typer) -> None:
    whole = get_command(group)
    able = [name for name, one in whole.commands.items() if any(each.name == "as_json" for each in one.params)]  # type: ignore[attr-defined]
    assert able
    before = () if whole.name in (None, "afina") else (whole.name,)
    for name in able:
        answer = afina(*before, name, "--json", "--no-such-option")
        told = json.loads(answer.out)["error"]
        assert (answer.code, told["code"]) == (whole.commands[name].error_status or 2, "argument.invalid")
        assert "--no-such-option" in told["message"]
        assert answer.err.splitlines()[-1] == f"Error: {told['message']}"


def test_usage_errors_are_in_words_of_users_and_json_is_an_option_and_no_text(afina: Command) -> None:
    told = json.loads(afina("evaluate", "x", "--task", "y.csv", "--seed", "many", "--json").out)["error"]
    assert told["message"] == "Invalid value for '--seed': expected a whole number"
    assert json.loads(afina("evaluate", "--text", "", "--json").out)["error"]["code"] == "argument.invalid"
    assert afina("predict", "absent", "--", "--json").out == ""


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (("predict", "{}", "x"), "argument.invalid"),
        (("study", "{}"), "argument.invalid"),
        (("store", "list", "--store", "{}"), "store.address-malformed"),
    ],
)
def test_a_file_name_that_is_too_long_is_one_sentence(afina: Command, command: tuple[str, ...], code: str) -> None:
    found = afina(*(part.format("a" * 5000) for part in command), "--json")
    assert found.error.removeprefix("--store '").startswith("aaa")
    assert json.loads(found.out)["error"]["code"] == code


def test_an_option_that_is_given_twice_is_refused_and_not_read_once(afina: Command) -> None:
    twice = json.loads(afina("evaluate", "x", "--task", "a.csv", "--task=b.csv", "--json").out)["error"]
    assert (twice["code"], twice["fields"]["argument"]) == ("argument.invalid", "--task")
    assert afina("predict", "absent", "--", "--file", "--file").error.startswith("absent: no adapter found")


def test_control_characters_of_names_do_not_reach_the_terminal(afina: Command) -> None:
    answer = afina("evaluate", "\x1b[31mred", "--task", "a.csv")
    assert "\x1b" not in answer.err
    assert "\\x1b[31mred: no adapter found" in answer.err
    assert len(afina("evaluate", "x", "--task", "x" * 5000).err) < 2000
