"""What an address is made into, once, in the cache."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fakes import Backbones

LOCATE = """
import sys
from afina.models.pretrained import locate
path = locate(sys.argv[1])
print(path, path.stat().st_ino)
"""


@pytest.mark.slow
def test_processes_that_want_the_same_weights_at_once_get_the_one_directory_that_the_first_made(
    backbones: Backbones, tmp_path: Path
) -> None:
    address = f"random:{backbones.path('gpt2')}"
    environment = os.environ | {"AFINA_CACHE": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", LOCATE, address]
    several = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    found = {process.communicate()[0] for process in several}
    assert [process.returncode for process in several] == [0, 0, 0]
    assert len(found) == 1, found
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == [Path(found.pop().split()[0]).name]
