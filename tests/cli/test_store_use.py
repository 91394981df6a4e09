"""Adapters in a store: a study publishes, predict reads, and the worked example of docs/reference/store.md runs."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from afina import AdapterStore, Backbone, Predictor
from command import Command
from fakes import Runs, sentences, write_csv
from pages import ROOT, blocks, commands


@pytest.fixture(autouse=True)
def _store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AFINA_STORE", str(tmp_path / "store"))


@pytest.fixture
def study(gpt2: Backbone, toy: str, tmp_path: Path) -> Path:
    content = f'name = "two"\nbackbone = "{gpt2.address}"\ntask = "{toy}"\n[train]\nmax_steps = 2\n'
    path = tmp_path / "two.toml"
    path.write_text(f"{content}[methods.baseline]\n[methods.lora]\n", encoding="utf-8")
    return path


def test_a_study_publishes_the_adapter_that_it_says_to_use(afina: Command, study: Path) -> None:
    made = afina("study", study, "--publish", "acme/reviews", "--json").object()
    published = made["published"]
    (lora,) = [record for record in made["records"] if record["method"] == "lora"]
    assert published == {"name": "acme/reviews", "version": 1, "digest": lora["digest"], "created": True}
    version = AdapterStore().show("acme/reviews")
    assert (version.digest, version.why and version.why.startswith("LoRA, seed 0, of two.")) == (lora["digest"], True)
    again = afina("study", study, "--publish", "acme/reviews")
    assert again.code == 0
    assert "published acme/reviews@1" in again.out


def test_what_publishing_would_end_with_is_told_before_anything_runs(afina: Command, study: Path) -> None:
    assert "not the name of an adapter" in afina("study", study, "--publish", "Acme").error
    assert not Path("results").exists()


def test_predict_and_evaluate_take_a_version(afina: Command, runs: Runs, toy: str) -> None:
    where = runs.adapter("gpt2", "lora")
    AdapterStore().publish(where, "acme/reviews", message="one")
    AdapterStore().alias("acme/reviews@1", "production")
    for name in ("store:acme/reviews", "store:acme/reviews@1", "store:acme/reviews@production"):
        assert afina("predict", name, "a warm soup").lines() == afina("predict", where, "a warm soup").lines()
    kept = afina("evaluate", "store:acme/reviews@production", "--task", toy, "--json").object()
    plain = afina("evaluate", where, "--task", toy, "--json").object()
    assert kept == plain | {"adapter": "store:acme/reviews@1"}
    opened = Predictor.load(AdapterStore().adapter("acme/reviews@production"))
    assert opened(["a warm soup"]) == Predictor.load(where)(["a warm soup"])


def test_what_is_no_version_is_told(afina: Command, runs: Runs) -> None:
    assert "there is no store" in afina("predict", "store:acme/reviews", "x").error
    AdapterStore().publish(runs.adapter("gpt2", "lora"), "acme/reviews", message="one")
    assert "Did you mean acme/reviews?" in afina("predict", "store:acme/review", "x").error
    assert "not the name of an adapter" in afina("predict", "store:reviews", "x").error
    assert "no such alias" in afina("predict", "store:acme/reviews@production", "x").error
    assert "--method cannot be used" in afina("predict", "store:acme/reviews", "x", "--method", "lora").error


PAGE = ROOT / "docs" / "reference" / "store.md"


def words_of(output: str) -> str:
    """An output without digests, numbers, times, labels, and names of layers, in one line."""
    text = re.sub(r"sha256:[0-9a-f]+", "DIGEST", " ".join(output.split()))
    text = re.sub(r"[−+]?\d[\d.,:e−+-]*(?<![.,:])", "N", text).replace("N KB", "N MB")
    return re.sub(r"\b(negative|positive)\b(?=\")|[\w.]+(?=: change)", "X", text)


VERDICT = re.compile(r"Undecided between .*|acme/reviews@\d is (?:better|worse) than .*", re.DOTALL)
"""The verdict of `diff`: which it is, depends on the model. tests/stats holds the words of each."""


def passages(quoted: str) -> Iterator[str]:
    """The parts of a quoted output that an output of the tiny model has too, if the docs quote it rightly."""
    for line in VERDICT.sub("", quoted).splitlines():
        for part in line.split("[...]"):
            if part.strip(" -") and not part.startswith("acme/reviews@production: 1"):
                yield words_of(part)


@pytest.mark.slow
def test_the_story_goes_as_it_is_told(
    afina: Command, gpt2: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commands of the story in their order, on a tiny model that learns in some steps, and invented reviews.

    Each quoted output has the words that the commands print.
    """
    monkeypatch.setenv("LOGNAME", "ada")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("AFINA_STORE", "adapters")
    monkeypatch.chdir(tmp_path)
    invented = [(text, ("negative", "positive")[label]) for text, label in sentences(400)]
    parts = {"january": invented[:60], "february": invented[60:160], "films": invented[60:120]}
    swapped = [(text, "positive" if label == "negative" else "negative") for text, label in invented[160:260]]
    for name, rows in {**parts, "march": swapped, "checked": invented[260:]}.items():
        write_csv(Path(f"{name}.csv"), rows)
    text = PAGE.read_text(encoding="utf-8")
    story = text[text.index("## A worked example") : text.index("## What a version holds")]
    Path("verify_audit.py").write_text(blocks(PAGE, "python")[0], encoding="utf-8")
    printed = ""
    for words in commands(story):
        if words[0] == "python":
            printed += subprocess.run([sys.executable, *words[1:]], capture_output=True, text=True, check=True).stdout
            continue
        short = ("--backbone", gpt2.address, "--method", "full", "--set", "max_steps=60", "--set", "learning_rate=5e-3")
        answer = afina(*words[1:], *({"train": short}.get(words[1], ())))
        assert answer.code == 0, (words, answer.err)
        if words[1] != "train":
            printed += answer.out
        if words[2] == "diff" and "acme/reviews@3" in words:
            assert "acme/reviews@3 is worse than acme/reviews@2" in printed
    known = words_of(printed)
    quoted = re.findall(
        r"^```(?:text)?\n(.*?)^```$", re.sub(r"^```sh\n.*?^```$", "", story, flags=re.M | re.S), re.M | re.S
    )
    assert len(quoted) >= 7
    assert [part for block in quoted for part in passages(block) if part not in known] == [], known
    (left,) = AdapterStore().list()
    assert (left.name, left.aliases) == ("acme/reviews", {"production": 2})


def test_the_script_of_the_page_has_thirty_lines_at_most_and_finds_what_was_changed(runs: Runs, tmp_path: Path) -> None:
    (script, *_) = blocks(PAGE, "python")
    assert len(script.splitlines()) <= 30
    store = AdapterStore()
    store.publish(runs.adapter("gpt2", "lora"), "acme/reviews", message="one")
    store.alias("acme/reviews@1", "production")
    log, program = tmp_path / "audit.jsonl", tmp_path / "verify_audit.py"
    store.export_audit(log)
    program.write_text(script, encoding="utf-8")

    def verified() -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-I", program, log], capture_output=True, text=True)

    assert verified().stdout == f"3 entries, the last {store.log()[-1].hash}\n"
    lines = log.read_text(encoding="utf-8").splitlines(keepends=True)
    for changed in (lines[1:], [lines[0], lines[2]], [lines[0], lines[2], lines[1]]):
        log.write_text("".join(changed), encoding="utf-8")
        assert verified().returncode == 1
    log.write_text("".join(lines).replace('"version":1', '"version":2'), encoding="utf-8")
    assert "entry 2" in verified().stderr
