"""Seconds from the shell to the answer of `afina predict` for a few texts, and to the first answer of `afina choose`.

    python benchmarks/first_answer.py --commands OTHER/bin/afina .venv/bin/afina

Each command is an installed `afina`; the commands take turns, with the files in the system's cache. The first turn is
not counted: it writes bytecode. All commands must print the same answers. `choose` has 300 training texts and two
backbones, and is ended by Ctrl-C after its first answer. The last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

import machine
import tables
from afina import Backbone, Task, meter
from real_regret import write
from serve import publish

TEXTS = ("A lovely day.", "It rained from morning to night.", "Nothing to complain about.")


def processor_seconds() -> float:
    """Processor seconds of all processes that this process has started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def answer(command: str, adapter: Path) -> tuple[float, float, str]:
    """The seconds and the processor seconds of one prediction, and what was printed."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    began, worked = meter.now(), processor_seconds()
    done = subprocess.run(
        [command, "predict", str(adapter), *TEXTS], stdout=subprocess.PIPE, text=True, check=True, env=environment
    )
    return meter.now() - began, processor_seconds() - worked, done.stdout


def first_choice(command: str, file: str, out: Path) -> float:
    """The seconds to the first answer of `choose`, with which Ctrl-C then ends it."""
    backbones = [word for name in ("bge", "embedded") for word in ("--backbone", name)]
    asked = [command, "choose", file, *backbones, "--out", str(out)]
    began = meter.now()
    with subprocess.Popen(asked, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        next(line for line in process.stderr if "So far the best: " in line)
        seconds = meter.now() - began
        process.send_signal(signal.SIGINT)
        process.communicate()
    assert process.returncode == 0, process.returncode
    return seconds


def main() -> None:
    """Print a table and one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commands", nargs="+", default=[str(Path(sys.executable).with_name("afina"))])
    parser.add_argument("--backbone", default="embedded")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--task", default="snippets:movies", help="for choose")
    asked = parser.parse_args()
    found: dict[str, dict[str, list[float]]] = {
        one: {"clock": [], "processor": [], "choose": []} for one in asked.commands
    }
    printed = set()
    with tempfile.TemporaryDirectory() as folder:
        there = Task.load(asked.task, train_examples=375)  # a fifth is held out
        file = write(Path(folder) / "texts.csv", there.train, there.label_names)
        publish(Backbone.load(asked.backbone), 1, Path(folder))
        for turn in range(asked.repeats + 1):
            for command, times in found.items():
                clock, processor, text = answer(command, Path(folder) / "0")
                printed.add(text)
                if turn:
                    times["clock"].append(clock)
                    times["processor"].append(processor)
                    times["choose"].append(first_choice(command, file, Path(folder) / "choose"))
    assert len(printed) == 1, printed
    rows = [
        (command, name, f"{median(times):.2f}", f"{min(times):.2f}", f"{max(times):.2f}")
        for command, both in found.items()
        for name, times in both.items()
    ]
    print(tables.table(("command", "seconds", "median", "least", "most"), rows))
    print(*machine.describe(), sep="\n")
    print(json.dumps({"backbone": asked.backbone, "seconds": found}))


if __name__ == "__main__":
    main()
