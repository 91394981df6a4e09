"""What no run could do without is looked for before the first is begun, and told once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from afina import Backbone
from command import Command
from fakes import sentences, write_csv


def study(task: str, backbone: str, **sections: str) -> Path:
    content = f'name = "two"\nbackbone = "{backbone}"\ntask = "{task}"\n[train]\nmax_steps = 2\ndtype = "float32"\n'
    path = Path("two.toml")
    path.write_text(f"{content}{sections.get('more', '')}[methods.baseline]\n[methods.lora]\n", encoding="utf-8")
    return path


def rows() -> list[tuple[str, str]]:
    return [(text, ("bad", "good")[label]) for text, label in sentences(60)]


@pytest.mark.parametrize(
    ("task", "backbone", "told"),
    [
        ("nope.csv", None, "task nope.csv: no such file or directory."),
        ("other.csv", None, "other.csv: no text column. Found: first, second."),
        (None, "./nope", "backbone ./nope: there is no directory ./nope."),
        (None, "random:nope", "backbone random:nope: there is no directory nope."),
        (None, "empty", "backbone empty: no config.json in empty."),
        (None, "opt", "backbone opt: models of type 'opt' are not supported."),
    ],
)
def test_it_is_told_once_without_a_runs_name_and_no_run_is_begun(
    afina: Command, gpt2: Backbone, toy: str, task: str | None, backbone: str | None, told: str
) -> None:
    Path("other.csv").write_text("first,second\na,1\nb,2\n", encoding="utf-8")
    for name, config in (("empty", None), ("opt", '{"model_type": "opt"}')):
        Path(name).mkdir()
        if config:
            (Path(name) / "config.json").write_text(config, encoding="utf-8")
    answer = afina("study", study(task or toy, backbone or gpt2.address))
    assert answer.error.startswith(told)
    assert answer.err.startswith("Error: "), "not a line of a run before it"
    assert answer.out == ""
    assert not Path("results/two").exists()


@pytest.mark.parametrize(
    "more", ["", pytest.param("[tune]\ncandidates = 1\n", marks=pytest.mark.slow)], ids=["as it is", "tuned"]
)
def test_a_study_that_is_complete_needs_no_backbone_any_more_and_is_shown_without_its_file(
    afina: Command, gpt2: Backbone, more: str
) -> None:
    write_csv(Path("mine.csv"), rows())
    Path("model").symlink_to(gpt2.path)
    file = study("mine.csv", "model", more=more)
    first = afina("study", file)
    assert first.code == 0, first.err
    Path("model").unlink()
    again = afina("study", file)
    assert again.code == 0, again.err
    assert again.out == first.out
    Path("mine.csv").unlink()
    gone = afina("study", file).error
    assert gone.startswith("task mine.csv: no such file or directory.")
    assert gone.endswith("The results in results/two stay readable: afina show results/two")
    shown = afina("show", "results/two").out.splitlines()
    assert set(first.out.splitlines()) <= set(shown), "it shows figures of each label, too"
    Path("results/two/records.jsonl").write_text("", encoding="utf-8")
    assert afina("study", file).error.startswith("task mine.csv: no such file or directory.")


def test_looking_beforehand_needs_no_torch(gpt2: Backbone, toy: str) -> None:
    code = (
        "import sys\nfrom afina.studies.executors.local_executor import LocalExecutor\n"
        "from afina.studies.runs.run import Run\n"
        "LocalExecutor().check(Run(backbone=sys.argv[1], task=sys.argv[2], method='lora'))\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, gpt2.address, toy], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
