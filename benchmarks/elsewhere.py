"""A process of another Python interpreter, with libraries that this environment lacks.

It reads a line of JSON and answers with a line of JSON.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any


class Elsewhere:
    """`script`, of this directory, run by `python`. `hello`: the first line that it says, when it is ready."""

    def __init__(self, python: str, script: str, *arguments: str) -> None:
        self.command = [python, str(Path(__file__).with_name(script)), *arguments]
        self._process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.hello = self._answer()

    def __call__(self, asked: Any) -> dict[str, Any]:
        """Send a line and return the answer."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{' '.join(self.command)}: ended with {self._process.wait(60)}.")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End it."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(60)
