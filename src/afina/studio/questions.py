"""Questions: a text, or a file of texts, that versions of a project's adapters are asked; and answers in words.

`afina predict` answers the texts of a file, for each version in a process of its own.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from afina import file_io
from afina.errors import CorruptAdapter
from afina.pages.marked_text import MarkedText
from afina.studio.command_process import CommandProcess
from afina.studio.folder import Project
from afina.studio.option_labels import label

KEPT = 20
"""The last questions of a project that are kept, so that loading a page anew asks again."""

ROWS = 30
"""The texts of a file that are shown: those with different answers first."""

_ID = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True)
class Question:
    """A text, or a file of texts, and the versions that are asked.

    Attributes:
        versions: `reference` and `title` of each.
        file: The name of the uploaded file; empty: the question is `text`.
    """

    id: str
    versions: Sequence[Mapping[str, str]]
    text: str = ""
    pair: str = ""
    file: str = ""


@dataclass(frozen=True)
class FileAnswers:
    """The answers to the texts of a file.

    Attributes:
        texts: Texts that all versions have answered.
        rows: Some texts (`text`, `answers` in words, `differs`), those with different answers first.
    """

    texts: int
    differing: int
    rows: Sequence[Mapping[str, Any]]
    is_done: bool


@dataclass(frozen=True)
class Questions:
    """The last questions of a project."""

    project: Project

    def _place(self, question: Question) -> Path:
        return self.project.directory / "questions" / question.id

    def file(self, question: Question) -> Path:
        """Return the path of the question's file of texts."""
        return self._place(question) / question.file

    def find(self, id: str) -> Question | None:
        """Return the question with this id; None if the id is unknown or the file of the question is damaged."""
        if not _ID.fullmatch(id):
            return None
        with suppress(CorruptAdapter, TypeError):
            return Question(**file_io.read_object(self.project.directory / "questions" / id / "question.json"))
        return None

    def keep(self, question: Question) -> None:
        """Write a question, and remove the oldest ones whose commands have ended."""
        own = self._place(question)
        file_io.write_text(own / "question.json", json.dumps(asdict(question), ensure_ascii=False))
        every = sorted(own.parent.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
        for old in every[KEPT:]:
            if not any(CommandProcess(path.parent).is_running for path in old.glob("*/command.json")):
                shutil.rmtree(old, ignore_errors=True)

    def process(self, question: Question, number: int) -> CommandProcess:
        """Return the process in which a version, by its place among those that are asked, answers a file."""
        return CommandProcess(self._place(question) / str(number))

    def _processes(self, question: Question) -> list[CommandProcess]:
        return [self.process(question, number) for number in range(len(question.versions))]

    def predict(self, question: Question, store: Path) -> None:
        """Let each version answer the texts of a question's file."""
        given = {
            f"--{name.replace('_', '-')}": self.project.options.get(name)
            for name in ("text", "text_pair", "sheet", "encoding")
        }
        options = [word for flag, value in given.items() if value for word in (flag, str(value))]
        for version, process in zip(question.versions, self._processes(question), strict=True):
            file = str(self.file(question).absolute())
            arguments = ["predict", f"store:{version['reference']}", "--file", file, *options]
            process.start(arguments, {"AFINA_STORE": str(store.absolute())})

    def file_problem(self, question: Question) -> str:
        """Return why a version does not answer a question's file; empty if all do."""
        every = self._processes(question)
        failed = next((problem.named(label) for process in every if (problem := process.problem)), "")
        if not failed and any(process.was_lost for process in every):
            return "The texts were not answered to the end. Ask again."
        return failed

    def file_answers(self, question: Question, reads: bool) -> FileAnswers:
        """Return the answers to a question's file; while versions answer, and without `reads`, only their count."""
        every = self._processes(question)
        is_done = not any(process.is_running for process in every)
        outputs, summary = [process.directory / "output" for process in every], self._place(question) / "summary.json"
        if not (is_done and reads):
            return FileAnswers(min(_line_count(output) for output in outputs), 0, (), is_done)
        with suppress(CorruptAdapter, TypeError):
            return FileAnswers(**file_io.read_object(summary))
        answers = _compared(outputs)
        file_io.write_text(summary, json.dumps(asdict(answers), ensure_ascii=False))
        self.file(question).unlink(missing_ok=True)  # it may be large, and its texts are with the answers
        return answers


def _line_count(path: Path) -> int:
    with suppress(FileNotFoundError), path.open("rb") as file:
        return sum(1 for _ in file)
    return 0


def _compared(outputs: Sequence[Path]) -> FileAnswers:
    """Return the answers of several files of answers to the same texts."""
    texts, differing, different, same = 0, 0, list[Mapping[str, Any]](), list[Mapping[str, Any]]()
    for lines in _lines(outputs):
        answers = [in_a_cell(line) for line in lines]
        differs = len({*answers}) > 1
        texts, differing = texts + 1, differing + differs
        kept = different if differs else same
        if len(kept) < ROWS:
            kept.append({"text": str(lines[0].get("text", "")), "answers": answers, "differs": differs})
    return FileAnswers(texts, differing, [*different, *same][:ROWS], is_done=True)


def _lines(paths: Sequence[Path]) -> Iterator[list[dict[str, Any]]]:
    """Yield the lines of several files of JSON lines beside each other, as far as all of them go."""
    with ExitStack() as stack:
        try:
            files = [stack.enter_context(path.open(encoding="utf-8")) for path in paths]
        except FileNotFoundError:
            return
        for lines in zip_longest(*files, fillvalue=""):
            if not all(line.endswith("\n") for line in lines):
                return
            yield [json.loads(line) for line in lines]


def in_words(answer: Mapping[str, Any]) -> list[str]:
    """Return an answer of `afina predict`, or of the server, in words."""
    if (entities := answer.get("entities")) is not None:
        return [f"{entity['text']} {entity['label']}" for entity in entities]
    if (several := answer.get("labels")) is not None:
        return [str(name) for name in several]
    if "value" in answer:
        return [f"{answer['value']:.4g}"]
    return [str(answer.get("label", answer.get("answer", "")))]


def is_answered(answer: Mapping[str, Any]) -> bool:
    """Return whether the version is sure enough to answer; always true if it does not abstain."""
    return bool(answer.get("answered", True))


def in_a_cell(answer: Mapping[str, Any]) -> str:
    """Return an answer of `afina predict` in the words of a cell of a table."""
    if answer.get("entities") is not None:
        return MarkedText.of_json(answer["text"], answer["entities"]).plain()
    words = ", ".join(in_words(answer))
    return words if is_answered(answer) else f"not answered (best guess: {words or 'none of the labels'})"
