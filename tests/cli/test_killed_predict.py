"""What a killed process has half-written, as a `predict --out`, is removed by the next that writes there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from afina import file_io

HELD = """
import sys, time
from pathlib import Path
from afina import file_io

with file_io.replacing(Path(sys.argv[1])) as fresh:
    fresh.write_text("half")
    print("there", flush=True)
    time.sleep(600)
"""


def temporaries(where: Path) -> list[Path]:
    return [each for each in where.iterdir() if each.name.startswith(file_io.TEMPORARY)]


def test_the_temporaries_of_the_killed_are_removed_and_those_of_the_living_stay(tmp_path: Path) -> None:
    out = tmp_path / "answers.csv"
    with subprocess.Popen([sys.executable, "-c", HELD, str(out)], stdout=subprocess.PIPE) as killed:
        assert killed.stdout is not None
        assert killed.stdout.readline() == b"there\n"
        file_io.sweep_killed(out)
        assert len(temporaries(tmp_path)) == 1
        killed.kill()
    other = tmp_path / f"{file_io.TEMPORARY}more.csv-abc"
    other.mkdir()
    with file_io.replacing(out) as fresh:
        file_io.sweep_killed(out)
        assert temporaries(tmp_path) != []
        fresh.write_text("whole")
    assert temporaries(tmp_path) == [other]
    assert out.read_text() == "whole"
