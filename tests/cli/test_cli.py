"""Each command as a user types it."""

from __future__ import annotations

import json
import math
import re
import shlex
import subprocess
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import typer.main

import afina as package
from afina import METHODS, Adapter, Backbone, assets, cli, meter
from afina.cli.help import EXAMPLES, START
from afina.cli.progress import Downloads
from afina.events import Progress
from afina.methods import NEEDS_SETTINGS
from afina.models.architectures.well_known import WELL_KNOWN
from afina.models.pretrained import meta_model
from afina.stats.intervals import wilson
from afina.studies.executors import by_name
from afina.studies.results import Results
from afina.studies.runs.record import Record
from command import PROGRAM, Answer, Command, GuessingExecutor
from fakes import BAD, GOOD, THINGS, write_csv
from records import GPT2_TOTAL, HEAD, TRAINED

PARTS = ("trainable", "body", "head")

SHORT = ("--set", "max_steps=4", "--set", "dtype=float32")

STUDIED = ("baseline", "zero-shot", "full", "lora", "prelayer", "prelayer-46080")
"""Those of `study_file`."""


def only_record(answer_object: dict[str, list[dict[str, object]]]) -> dict[str, object]:
    (one,) = answer_object["records"]
    return one


# study, show


@pytest.fixture
def study_file(gpt2: Backbone, toy: str, tmp_path: Path) -> Path:
    path = tmp_path / "compare.toml"
    path.write_text(
        f"""
        name = "compare"
        backbone = {json.dumps(gpt2.address)}
        task = {json.dumps(toy)}
        [train]
        max_steps = 3
        dtype = "float32"
        [methods.baseline]
        [methods.zero-shot]
        [methods.full]
        [methods.lora]
        [methods.prelayer]
        [methods.prelayer-46080]
        """,
        encoding="utf-8",
    )
    return path


@pytest.mark.slow
def test_a_study_shows_its_tables_and_where_everything_is(afina: Command, study_file: Path) -> None:
    answer = afina("study", study_file)
    assert answer.code == 0
    for title in ("Performance", "Further figures", "Parameters and training time", "Memory"):
        assert title in answer.out
    for method in (METHODS[name] for name in STUDIED):
        title = re.escape(method.title.removesuffix(")"))
        rows = re.findall(rf"^{title}(?:  | \(head|,)", answer.out.split("\nVerdicts\n")[0], re.MULTILINE)
        assert len(rows) == 4, f"{method.title} has a row in each table"
    assert "report  results/compare/report.md" in answer.out
    records = Results.read(Path("results/compare")).records
    for record in records:
        assert f"adapter results/compare/{record.adapter}" in answer.out
        assert (Path("results/compare") / record.adapter / "manifest.json").is_file()
    # Progress goes to the other stream, a line a phase.
    lines = answer.err.splitlines()
    assert lines[0].startswith("text: column 'text'; label: column 'label'. ")
    assert lines[0].endswith(": kind classes")
    assert lines[1:4] == [f"[1/6] baseline, seed 0: {phase}" for phase in ("load", "encode", "evaluate")]
    assert "[4/6] lora, seed 0: train" in lines
    assert any(line.startswith("lora, seed 0: accuracy 0.") for line in lines)

    again = afina("study", study_file)
    assert again.out == answer.out
    assert [line for line in again.err.splitlines() if "(recorded before)" not in line] == []
    shown = afina("show", "results/compare").out
    first, last = shown.index("Figures by label"), shown.index("adapter results/")
    assert "Confusion matrix, " in shown[first:last]
    assert shown[:first] + shown[last:] == answer.out
    made = afina("study", study_file, "--json").object()
    assert afina("show", "results/compare", "--json").object() == made
    assert (made["study"], made["out"], made["report"]) == ("compare", "results/compare", "results/compare/report.md")
    assert [one["method"] for one in made["records"]] == list(STUDIED)
    for one in made["records"]:
        assert one["trainable"] == one["body"] + one["head"]
        assert Adapter.load(Path(one["adapter"])).digest == one["digest"]
        trained = one["method"] not in ("baseline", "zero-shot")
        assert (one["tokens_per_second"] is not None) == (one["memory"]["activation_bytes"] is not None) == trained


def test_the_report_shows_texts_unless_told_not_to(afina: Command, toy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(by_name, "LocalExecutor", lambda slots, **_: GuessingExecutor())
    content = f'name = "two"\nbackbone = "gpt2"\ntask = {json.dumps(toy)}\nmethods = {{full = {{}}, lora = {{}}}}\n'
    Path("two.toml").write_text(content, encoding="utf-8")
    words = re.compile(rf"\b({'|'.join((*GOOD, *BAD))})\b")

    def contents() -> list[str]:
        return [Path(f"here/report.{suffix}").read_text(encoding="utf-8") for suffix in ("html", "md")]

    assert afina("study", "two.toml", "--out", "here").code == 0
    assert all("Where the methods disagree" in text and words.search(text) for text in contents())
    answer = afina("report", "here", "--no-texts")
    assert answer.out.split() == ["here/report.md", "here/report.html", "here/tables.csv", "here/tables.json"]
    assert all("texts were left out on request" in text and not words.search(text) for text in contents())
    afina("report", "here")
    assert all(words.search(text) for text in contents())
    afina("study", "two.toml", "--out", "here", "--no-texts")
    assert all("texts were left out on request" in text and not words.search(text) for text in contents())


def test_a_study_takes_another_backbone_task_and_setting(
    afina: Command, study_file: Path, gpt2: Backbone, toy: str
) -> None:
    text = study_file.read_text(encoding="utf-8").replace(toy, "nowhere.csv").replace(gpt2.address, "./nowhere")
    study_file.write_text(text, encoding="utf-8")
    shown = afina(
        *("study", study_file, "--backbone", f"random:{gpt2.path}", "--task", toy, "--json"),
        *("--set", "methods={lora={r=2}}", "--set", "seeds=[3, 4]", "--set", "name=other"),
    ).object()
    assert shown["out"] == "results/other"
    assert [(one["seed"], one["hyperparameters"]["r"], one["backbone"]) for one in shown["records"]] == [
        (3, 2, f"random:{gpt2.path}"),
        (4, 2, f"random:{gpt2.path}"),
    ]


@pytest.mark.slow
def test_a_study_of_which_a_run_fails_shows_the_others_and_exits_with_an_error(
    afina: Command, gpt2: Backbone, toy: str, tmp_path: Path
) -> None:
    (tmp_path / "study.toml").write_text(
        f"""
        name = "partly"
        backbone = {json.dumps(gpt2.address)}
        task = {json.dumps(toy)}
        train = {{max_steps = 30, dtype = "float32", checkpoint_seconds = 0}}
        [methods.full]
        learning_rate = 1e30
        [methods.lora]
        """,
        encoding="utf-8",
    )
    done = afina("study", tmp_path / "study.toml", "--out", "out", "--json")
    assert done.code == 2
    assert done.out.count("\n") == 1
    lora, full = json.loads(done.out)["records"]
    assert (lora["method"], lora["status"], lora["error"]) == ("lora", "done", None)
    assert (full["method"], full["status"]) == ("full", "failed")
    assert list(full) == list(lora)
    assert "the loss is" in full["error"]
    assert f"Error: full, seed 0: {full['error'].removeprefix('run full: ')}" in done.err.splitlines()
    assert done.err.splitlines()[-1] == "1 of 2 runs failed. To try these runs again, repeat the command."
    assert "Traceback" not in done.err
    assert [path.name for path in Path("out/adapters").iterdir()] == [Path(lora["adapter"]).name]
    assert not list(Path("out/checkpoints").glob("*"))
    assert not Path("out/.scratch").exists()


# train: one's own file, in one command


def train(afina: Command, gpt2: Backbone, *arguments: object) -> Record:
    answer = afina("train", "--backbone", gpt2.address, *SHORT, *arguments)
    assert answer.code == 0, answer.err
    (record,) = Results.read(Path("results/train")).records
    return record


def test_train_takes_method_seed_and_hyperparameters(afina: Command, gpt2: Backbone, toy: str) -> None:
    record = train(
        afina, gpt2, "--task", toy, "--method", "lora", "--seed", 5, "--set", "r=2", "--set", 'targets=["c_proj"]'
    )
    assert (record.method, record.seed, record.label_names) == ("lora", 5, ("bad", "good"))
    assert record.train_examples + record.examples == 120
    assert record.trainable > record.head > 0
    assert not list(Path("results").rglob(".lock"))
    assert record.hyperparameters == {"r": 2, "alpha": 16, "dropout": 0.05, "targets": ["c_proj"]}
    assert record.steps == 4


def test_several_classes_are_learnt_in_the_order_given(afina: Command, gpt2: Backbone) -> None:
    words = {"low": BAD, "middle": ("plain", "usual", "common", "middling", "ordinary"), "high": GOOD}
    rows = [(f"{word} {thing}", label) for label, chosen in words.items() for word in chosen for thing in THINGS]
    write_csv(Path("grades.csv"), rows, ("Review", "stars"))
    arguments = ("--task", "grades.csv", "--label", "stars", "--labels", "low, middle,high")
    record = train(afina, gpt2, *arguments)
    assert record.label_names == ("low", "middle", "high")
    assert record.head == 3 * gpt2.config.hidden_size
    adapter = Path("results/train") / record.adapter
    (line,) = afina("predict", adapter, "a bright play").lines()
    assert list(line["probabilities"]) == ["low", "middle", "high"]
    shown = afina("evaluate", adapter, *arguments, "--json").object()
    assert (shown["accuracy"], shown["f1"], shown["examples"]) == (record.accuracy, record.f1, record.examples)


@pytest.mark.slow
def test_pairs_of_texts_are_trained_on_and_predicted(afina: Command, gpt2: Backbone) -> None:
    rows = [
        (f"the {thing} was {one}", f"it was {two}", "same" if (one in GOOD) == (two in GOOD) else "other")
        for thing in THINGS
        for one in (GOOD[0], BAD[0])
        for two in (*GOOD, *BAD)
    ]
    write_csv(Path("pairs.csv"), rows, ("text", "reply", "label"))
    single = train(afina, gpt2, "--task", "pairs.csv", "--text", "text", "--allow-leakage", "--set", "head=random")
    record = train(afina, gpt2, "--task", "pairs.csv", "--text-pair", "reply")
    assert record.tokens > single.tokens
    adapter = Path("results/train") / record.adapter
    asked = [{"text": "the soup was bright", "text_pair": f"it was {word}"} for word in ("bright", "dull")]
    Path("new.jsonl").write_text("\n".join(map(json.dumps, asked)), encoding="utf-8")
    lines = afina("predict", adapter, "--file", "new.jsonl").lines()
    assert [(line["text"], line["text_pair"]) for line in lines] == [(one["text"], one["text_pair"]) for one in asked]
    assert lines[0]["probabilities"] != lines[1]["probabilities"]
    told = afina("predict", adapter, "the soup was bright").error
    assert told.startswith(
        f"{adapter}: trained on pairs of texts, but single texts are given. Give both texts with --pair, or "
    )
    alone = Path("results/train") / single.adapter
    assert afina("predict", alone, "the soup was bright").code == 0


def test_an_adapter_that_asks_of_one_text_takes_no_pairs(afina: Command, trained: Path) -> None:
    Path("new.jsonl").write_text('{"text": "a warm play", "text_pair": "a dull one"}\n', encoding="utf-8")
    told = afina("predict", trained, "--file", "new.jsonl").error
    assert told.endswith(
        "trained on single texts, but pairs are given. Give one text, or name the only column to read with --text."
    )
    (line,) = afina("predict", trained, "--file", "new.jsonl", "--text", "text_pair").lines()
    assert line["text"] == "a dull one"


# evaluate, predict


def test_evaluate_gives_the_figures_of_the_record(afina: Command, trained: Path, toy: str) -> None:
    metrics = Adapter.load(trained).manifest.metrics
    answer = afina("evaluate", trained, "--task", toy)
    assert answer.code == 0
    examples = int(metrics["examples"])
    where = wilson(round(metrics["accuracy"] * examples), examples)
    first, second = answer.out.splitlines()[:2]
    assert first == (
        f"accuracy {metrics['accuracy']:.4f}, F1 of good {metrics['f1']:.4f} on the {examples} texts that training "
        f"left out of {toy} (95 % of accuracy: {where.low:.4f} to {where.high:.4f}); too few to say anything: below 30"
    )
    for words in ("balanced accuracy", "Matthews correlation", "AUROC", "log loss", "Brier score", "calibration error"):
        assert words in second
    shown = afina("evaluate", trained, "--task", toy, "--json", "--check-probe").object()
    assert list(shown)[:5] == ["adapter", "digest", "task", "accuracy", "f1"]
    assert shown["metric"] == "accuracy"
    assert shown["interval"] == [where.low, where.high]
    assert (shown["file"], shown["held_out"], shown["leaked"], shown["dtype"]) == (toy, True, 0, "float32")
    assert {key: shown[key] for key in metrics} == metrics
    assert len(metrics) == 9
    assert shown["digest"] == Adapter.load(trained).digest


TEXTS = ["What a warm ferry!", 'a "quoted" text, with a comma', "naïve café ☕", "  spaces  "]


def test_predict_prints_a_json_line_for_every_text(afina: Command, trained: Path) -> None:
    answer = afina("predict", trained, *TEXTS)
    lines = answer.lines()
    assert answer.err == ""
    assert [line["text"] for line in lines] == TEXTS
    assert "☕" in answer.out
    for line in lines:
        assert list(line) == ["row", "text", "label", "probabilities"]
        assert list(line["probabilities"]) == ["bad", "good"]
        assert math.isclose(sum(line["probabilities"].values()), 1, rel_tol=1e-6)
        assert line["label"] == max(line["probabilities"], key=line["probabilities"].__getitem__)


def _txt(texts: Sequence[str]) -> bytes:
    return "".join(f"{text}\n" for text in texts).encode()


def _windows(texts: Sequence[str]) -> bytes:
    return b"\xef\xbb\xbf" + "\r\n".join(texts).encode()


def _jsonl(texts: Sequence[str]) -> bytes:
    return "\n".join(json.dumps({"id": index, "text": text}) for index, text in enumerate(texts)).encode()


def test_texts_in_a_file_are_predicted_like_texts_on_the_command_line(afina: Command, trained: Path) -> None:
    expected = afina("predict", trained, *TEXTS).lines()
    for name, write in (("windows.txt", _windows), ("no_suffix", _txt), ("new.jsonl", _jsonl)):
        Path(name).write_bytes(write(TEXTS))
        assert afina("predict", trained, "--file", name).lines() == expected, name


def test_a_long_file_is_answered_in_its_order_and_an_error_far_down_comes_after_what_was_answered(
    afina: Command, trained: Path
) -> None:
    words = [*GOOD, *BAD]
    texts = [f"{number} {' '.join(words[: number % 7])} {words[number % len(words)]}" for number in range(300)]
    Path("long.txt").write_bytes(_txt(texts))
    lines = afina("predict", trained, "--file", "long.txt").lines()
    assert [line["text"] for line in lines] == texts
    for number in (0, 17, 100, 299):  # in the chunks of all sizes
        (alone,) = afina("predict", trained, texts[number]).lines()
        assert lines[number]["probabilities"] == pytest.approx(alone["probabilities"], abs=1e-5)
    Path("long.txt").write_bytes(_txt([*texts[:200], "", *texts[200:]]))
    answer = afina("predict", trained, "--file", "long.txt")
    found = [json.loads(line) for line in answer.out.splitlines()]
    assert [line["row"] for line in found] == [*range(1, 302)]
    assert found.pop(200)["reason"] == "long.txt, line 201: no text there"
    assert [{**line, "row": 0} for line in found] == [{**line, "row": 0} for line in lines]
    assert answer.err == "long.txt, line 201: no text there, so no answer.\n"
    Path("long.txt").write_bytes(_txt(texts[:200]) + b"\0\n" + _txt(texts[200:]))
    answer = afina("predict", trained, "--file", "long.txt")
    assert answer.error.startswith("long.txt, line 201: a NUL character.")
    assert [json.loads(line)["text"] for line in answer.out.splitlines()] == texts[: 16 + 64]
    Path("answers").mkdir()
    assert "line 201" in afina("predict", trained, "--file", "long.txt", "--out", "answers/done.csv").error
    assert not [*Path("answers").iterdir()], "nothing half-written"


@pytest.mark.slow
def test_texts_without_end_are_answered_until_nobody_reads_on(trained: Path) -> None:
    predict = shlex.join([*PROGRAM, "predict", str(trained), "--file", "-"])
    done = subprocess.run(
        ["bash", "-c", f'yes "a warm play" | {predict} | head -n 3; echo "${{PIPESTATUS[1]}}"'],
        capture_output=True,
        text=True,
        timeout=120,
    )
    *lines, status = done.stdout.splitlines()
    assert ([json.loads(line)["text"] for line in lines], status, done.stderr) == (["a warm play"] * 3, "1", "")


def test_a_text_that_looks_like_an_option_follows_two_hyphens(afina: Command, trained: Path) -> None:
    assert [line["text"] for line in afina("predict", trained, "--", "--file").lines()] == ["--file"]


def test_an_adapter_is_used_with_its_backbone_at_another_place(
    afina: Command, trained: Path, gpt2: Backbone, tmp_path: Path
) -> None:
    (tmp_path / "moved").symlink_to(gpt2.path)
    assert afina("predict", trained, "a", "--backbone", "moved").lines() == afina("predict", trained, "a").lines()


# params, methods, and the rest


def test_params_of_gpt2_are_the_published_counts_and_need_no_network(afina: Command) -> None:
    shown = afina("params", "--backbone", "gpt2", "--json").object()
    assert list(shown) == ["backbone", "total", "methods"]
    assert (shown["backbone"], shown["total"]) == ("gpt2", GPT2_TOTAL)
    counts = {name: [one[part] for part in PARTS] for name, one in shown["methods"].items()}
    assert {tuple(one) for one in shown["methods"].values()} == {(*PARTS, "as_run")}
    assert list(counts) == [name for name in METHODS if name != "setfit"]
    assert {name: counts[name] for name in STUDIED} == {
        "baseline": [0, 0, 0],
        "zero-shot": [0, 0, 0],
        "full": [124_441_344, 124_439_808, 1_536],
        "lora": [148_992, 147_456, 1_536],
        "prelayer": [39_383_808, 39_383_808, 0],
        "prelayer-46080": [46_080, 46_080, 0],
    }
    assert {name: counts[name][1] for name in STUDIED} == TRAINED | {"zero-shot": 0}
    assert counts["full"][2] == HEAD
    run = {name: one["as_run"] for name, one in shown["methods"].items()}
    assert run["prelayer"] == {"trainable": 39_385_344, "body": 39_383_808, "head": HEAD}
    assert run["lora"]["trainable"] == shown["methods"]["lora"]["trainable"]


def widest(answer: Answer) -> int:
    return max(map(len, answer.out.splitlines()))


def test_params_prints_counts_and_percentages_and_why_a_run_has_others(
    afina: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    answer = afina("params", "--backbone", "gpt2")
    assert answer.code == 0
    assert 40 < widest(answer) <= 80, "where nobody says how wide the terminal is"
    assert answer.out.startswith("gpt2: 124,441,344 parameters with a head for two labels\n")
    lines = [" ".join(line.split()) for line in answer.out.splitlines()]
    assert "lora 148,992 0.1197 147,456 1,536" in lines
    assert "prelayer 39,385,344 31.6497 39,383,808 1,536" in lines
    assert "prelayer, as published 39,383,808 31.6485 39,383,808 0" in lines
    assert "The published study counts PreLayer without the head" in " ".join(lines)


@pytest.mark.slow
def test_params_and_plan_of_the_embedded_model_fetch_nothing(
    afina: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AFINA_CACHE", str(tmp_path / "empty"))
    monkeypatch.setattr(assets, "fetch", lambda name: pytest.fail(f"{name} was fetched"))
    assert afina("params", "--json").object()["total"] == 134_516_160
    assert afina("plan", "--method", "lora", "--json").object()["methods"]["lora"]["trainable"] == 323_712
    assert not (tmp_path / "empty").exists()


@pytest.mark.assets
@pytest.mark.slow
def test_the_shapes_that_are_known_of_the_embedded_model_are_its_own() -> None:
    known, real = meta_model("embedded"), Backbone.load("embedded").config
    for field in WELL_KNOWN["embedded"]:
        assert getattr(known.config, field) == pytest.approx(getattr(real, field)), field


def test_params_leaves_out_a_method_that_the_family_does_not_have(afina: Command, llama: Backbone) -> None:
    shown = afina("params", "--backbone", llama.address, "--json").object()["methods"]
    assert set(shown) == set(METHODS) - {"prelayer-46080", "bitfit", "setfit"}


def _gptj(layers: int, width: int) -> int:
    block = 12 * width**2 + 7 * width  # q, k, v, out without biases, two of the MLP with, one norm
    return 50400 * width + layers * block + 2 * width


def _llama(layers: int, width: int, inner: int) -> int:
    block = 4 * width**2 + 3 * width * inner + 2 * width
    return 32000 * width + layers * block + width


@pytest.mark.parametrize(
    ("backbone", "body", "width"),
    [
        ("EleutherAI/gpt-j-6b", _gptj(28, 4096), 4096),
        ("huggyllama/llama-7b", _llama(32, 4096, 11008), 4096),
    ],
)
@pytest.mark.slow
def test_params_of_other_well_known_models_need_no_network_either(
    afina: Command, backbone: str, body: int, width: int
) -> None:
    full = afina("params", "--backbone", backbone, "--json").object()["methods"]["full"]
    assert (full["body"], full["head"]) == (body, 2 * width)


def test_methods_names_every_method_with_its_settings(afina: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    answer = afina("methods")
    assert answer.code == 0
    assert 80 < widest(answer) <= 100
    for name, method in (METHODS | NEEDS_SETTINGS).items():
        assert f"\n{name:<16}" in f"\n{answer.out}"
        assert method.summary in " ".join(answer.out.split())
    told = "targets=by family, rslora=False, dora=False, init='zero', plus=1.0, layers='all', learning_rate=0.001"
    assert f"r=4, alpha=16, dropout=0.05, {told}" in " ".join(answer.out.split())
    assert "required: type\n" in answer.out
    assert "settings, learning_rate=0.001" in answer.out
    assert "required: url, model\n" in answer.out
    assert "protocol='chat', key=None, at_once=4" in answer.out
    assert "  gpt2          c_attn\n" in answer.out


def test_version_and_help_are_printed(afina: Command) -> None:
    assert afina("--version").out == f"afina {package.__version__}\n"
    shown = afina("--help").out
    for command in ("study", "train", "evaluate", "predict", "params", "methods", "show", "report"):
        assert f"\n  {command} " in shown
        assert afina(command, "--help").code == 0


def test_a_download_is_a_line_on_standard_error_and_no_more_than_one_in_a_while(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = Downloads()
    for now, done in ((100.0, 0), (101.0, 10), (116.0, 40)):
        monkeypatch.setattr(meter, "now", partial(float, now))
        shown(Progress("download", done * 10**6, 93 * 10**6, note="the model embedded"))
    shown(Progress("load"))
    shown(Progress("download", 0, 5 * 10**6, note="summaries"))
    assert capfd.readouterr() == (
        "",
        "downloading 93 MB of the model embedded (once)\n"
        "downloading 93 MB of the model embedded (once): 40 MB\n"
        "downloading 5 MB of summaries (once)\n",
    )


def test_the_examples_of_help_and_of_afina_alone_can_be_typed(afina: Command) -> None:
    commands: Any = typer.main.get_command(cli.app)
    alone = afina()
    assert (alone.code, alone.out) == (0, f"{START}\n")
    lines = [line.partition("  ")[0] for line in START.split("\n  ")[1:]]
    assert len(lines) == 5
    for line in [*lines, *EXAMPLES.values()]:
        name, *given = shlex.split(line)[1:]
        command = commands.commands[name]
        while hasattr(command, "commands"):
            name, *given = given
            command = command.commands[name]
        command.make_context(name, given)  # fails on unknown or missing options
    for name in ("train", "store publish"):
        assert f"Example:\n  {EXAMPLES[name]}\n" in afina(*name.split(), "--help").out
    for names in command_names(commands):
        assert " ".join(names) in EXAMPLES
        told = commands
        for name in names:
            told = told.commands[name]
        assert re.match(r"[A-Z][^.]+\.", told.help), told.help
    for command in ((), ("store",), ("train",)):
        assert afina(*command, "-h").out == afina(*command, "--help").out


def command_names(group: Any, *names: str) -> Iterator[tuple[str, ...]]:
    """All commands and groups under a group, as the names that are typed."""
    for name, command in group.commands.items():
        yield (*names, name)
        if hasattr(command, "commands"):
            yield from command_names(command, *names, name)


@pytest.mark.slow
def test_output_into_a_pipe_that_is_closed_ends_without_a_word() -> None:
    process = subprocess.Popen([*PROGRAM, "methods"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 1
    process.stderr.close()
