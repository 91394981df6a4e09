"""KeptAnswer: the JSON answer of a command, kept in its process's directory while its inputs are unchanged."""

from __future__ import annotations

import shlex
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from afina import file_io
from afina.sentence import Sentence
from afina.studio.command_process import CommandProcess

_KEY = "inputs"
"""The file with the key of what the answer was computed from."""

LOOK_SECONDS = 0.1

_beginning = threading.Lock()
"""Held while it is found out whether a command must be started, so that two visits start it once."""


@dataclass(frozen=True)
class KeptAnswer:
    """A command that changes nothing, and its answer.

    Attributes:
        inputs: A key that changes when the answer would change; empty: the process is of one set of inputs.
        memory: The most address space in bytes that the command may use. None: no limit.
    """

    process: CommandProcess
    arguments: Sequence[str]
    inputs: str = ""
    memory: int | None = None

    @property
    def command(self) -> str:
        """The command line."""
        return shlex.join(["afina", *self.arguments])

    def begin(self) -> None:
        """Start the command unless it runs, or its answer to these inputs is kept."""
        with _beginning:
            if not self.process.is_running and not self._is_kept:
                self.process.directory.mkdir(parents=True, exist_ok=True)
                file_io.write_text(self.process.directory / _KEY, self.inputs)
                self.compute()

    def compute(self) -> None:
        """Start the command unless it runs, also if its answer is kept."""
        self.process.start([*self.arguments, "--json"], memory=self.memory)

    @property
    def _is_kept(self) -> bool:
        key = self.process.directory / _KEY
        is_same = not self.inputs or (key.is_file() and key.read_text(encoding="utf-8") == self.inputs)
        return is_same and self.process.status is not None

    @property
    def found(self) -> Mapping[str, Any] | None:
        """The answer; None if it is not computed, or if the command has failed."""
        answer = self.process.answer() if self._is_kept and self.process.status == 0 else {}
        return answer or None

    @property
    def problem(self) -> Sentence:
        """Why there is no answer; empty if there is an answer, or the command runs."""
        if not self._is_kept or self.found is not None:
            return Sentence()
        return self.process.problem or Sentence(["no answer"])

    def waited_for(self) -> Mapping[str, Any] | None:
        """Begin, and return the answer when the command has ended; None if it has failed."""
        self.begin()
        while self.process.is_running:
            threading.Event().wait(LOOK_SECONDS)
        return self.found
