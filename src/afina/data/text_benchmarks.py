"""Named text-to-text tasks: summaries of ACLSum, restaurant descriptions of E2E, and answers to questions of SQuAD.

S. Takeshita et al., ACLSum: A New Dataset for Aspect-based Summarization of Scientific Publications, NAACL 2024 (the
files of aclsum 0.1.2, MIT). J. Novikova et al., The E2E Dataset: New Challenges For End-to-End Generation, SIGDIAL
2017. P. Rajpurkar et al., SQuAD: 100,000+ Questions for Machine Comprehension of Text, EMNLP 2016.

`afina.assets` fetches the files of ACLSum.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from afina import assets
from afina.data import problems
from afina.data.kinds import TEXT
from afina.data.readers import files, formats, source
from afina.data.readers.formats import FileTable
from afina.data.readers.splitting import TaskData
from afina.data.reading_options import ReadingOptions

ASPECTS = ("challenge", "approach", "outcome")
SECTIONS = ("abstract", "introduction", "conclusion")
WHOLE = "-full"
"""The suffix of names of ACLSum tasks whose input is all of SECTIONS, not only the abstract."""

ACLSUM = tuple(f"{aspect}{suffix}" for suffix in ("", WHOLE) for aspect in ASPECTS)
"""The names of the ACLSum tasks, such as `challenge` and `challenge-full`."""

E2E_TRAIN = ("trainset.csv", "devset.csv")
E2E_TEST = ("testset_w_refs.csv", "testset.csv", "devset.csv")
"""The possible names of E2E's evaluation file; the first file that exists is read. The E2E challenge first published
`testset.csv` without references."""


def load_aclsum(name: str, labels: tuple[str, ...] | None = None, *, offline: bool = False) -> TaskData:
    """Return an ACLSum task with its training split (100 papers) and, for evaluation, its test split (100 papers).

    ACLSum's validation split (50 papers) is not read. The caller has checked that the files are cached.
    """
    aspect = name.removesuffix(WHOLE)
    sections = SECTIONS if name.endswith(WHOLE) else SECTIONS[:1]
    folder = assets.fetch("aclsum")
    tables = [_papers(folder / f"{split}.jsonl", aspect, sections) for split in ("train", "test")]
    asked = ReadingOptions(text="document", label=aspect, kind=TEXT, missing="keep", labels=labels)
    return files.TableReading.of(tables, asked).splits()


def _papers(path: Path, aspect: str, sections: Sequence[str]) -> FileTable:
    papers = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    texts = ["\n".join(" ".join(paper["sentences"][section]) for section in sections) for paper in papers]
    columns = {"document": texts, aspect: [paper["summary"][aspect] for paper in papers]}
    return FileTable(path, columns, range(1, len(papers) + 1))


def e2e_files(place: Path) -> list[Path]:
    if _is_file(place):
        return [place]
    found = [
        next((place / name for name in names if (place / name).is_file()), None) for names in (E2E_TRAIN, E2E_TEST)
    ]
    train, evaluation = found
    if train is None:
        wanted = "a csv file of the E2E challenge, or a directory with its files"
        raise problems.BENCHMARK_FILE_MISSING(
            expected=E2E_TRAIN, found=source.names_in(place), path=place, file=", ".join(E2E_TRAIN), _expected=wanted
        )
    return [train] if evaluation in (None, train) else [train, evaluation]


def load_e2e(place: Path, labels: tuple[str, ...] | None = None) -> TaskData:
    """Return the E2E task; without an evaluation file, a fifth of the inputs is held out for evaluation.

    Raises NotFound, InvalidData.
    """
    asked = ReadingOptions(text="mr", label="ref", kind=TEXT, missing="keep", labels=labels)
    tables = [formats.read(path) for path in e2e_files(place)]
    return replace(files.TableReading.of(tables, asked).splits(), metric="bleu")


def squad_files(place: Path) -> list[Path]:
    if _is_file(place):
        return [place]
    there = sorted(place.iterdir())
    found = []
    for stem in ("train-", "dev-"):
        fits = [path for path in there if path.name.startswith(stem) and path.suffix == ".json" and path.is_file()]
        if len(fits) > 1:
            raise problems.SEVERAL_FILES_OF_SPLIT(
                path=place, found=[path.name for path in fits], expected=f"{stem}*.json"
            )
        found += fits
        if not fits and stem == "train-":
            wanted = "a json file of SQuAD, or a directory with train-*.json and dev-*.json"
            raise problems.BENCHMARK_FILE_MISSING(
                found=source.names_in(place), path=place, file="train-*.json", _expected=wanted
            )
    return found


def load_squad(place: Path, labels: tuple[str, ...] | None = None) -> TaskData:
    """Return the SQuAD task; without an evaluation file, a fifth of the articles is held out for evaluation.

    Questions without an answer are left out, and a note says how many. Raises NotFound, InvalidData.
    """
    asked = ReadingOptions(
        text="context", text_pair="question", label="answers", kind=TEXT, missing="keep", labels=labels
    )
    tables = [_questions(path) for path in squad_files(place)]
    return replace(files.TableReading.of(tables, asked).splits(), metric="token_f1")


def _is_file(place: Path) -> bool:
    if not place.is_file() and not place.is_dir():
        raise problems.PLACE_MISSING(path=place)
    return place.is_file()


def _questions(path: Path) -> FileTable:
    with source.opened(path) as file:
        content = formats.parsed(str(path), file.stream.read(), "a json file of SQuAD")
    columns: dict[str, list[Any]] = {"title": [], "context": [], "question": [], "answers": []}
    places, left_out, number = [], 0, 0
    for number, row in enumerate(_rows(content, str(path)), start=1):
        if not row["answers"]:
            left_out += 1
            continue
        places.append(number)
        for name, values in columns.items():
            values.append(row[name])
    if not places:
        raise problems.SQUAD_NO_ANSWERS(rows=number, path=path)
    note = f"{path}: {left_out:,} of {number:,} questions have no answer and are left out."
    return FileTable(path, columns, places, "question", notes=(note,) if left_out else ())


def _rows(content: Any, where: str) -> Iterator[Mapping[str, Any]]:
    """Yield for each question of SQuAD's json its article's title, its context, the question and the answers."""
    for i, article in enumerate(_part(content, "data", list, where), start=1):
        of_article = f"{where}, article {i}"
        paragraphs = _part(article, "paragraphs", list, of_article)
        title = article.get("title") or f"article {i}"
        for j, paragraph in enumerate(paragraphs, start=1):
            of_paragraph = f"{of_article}, paragraph {j}"
            context = _part(paragraph, "context", str, of_paragraph)
            for k, question in enumerate(_part(paragraph, "qas", list, of_paragraph), start=1):
                of_question = f"{of_paragraph}, question {k}"
                asked = _part(question, "question", str, of_question)
                answers = _part(question, "answers", list, of_question)
                given = [_part(answer, "text", str, f"{of_question}, an answer") for answer in answers]
                yield {"title": title, "context": context, "question": asked, "answers": given}


def _part(found: Any, name: str, expected: type[list[Any]] | type[str], where: str) -> Any:
    value = found.get(name) if isinstance(found, dict) else None
    if not isinstance(value, expected):
        words = "a text" if expected is str else "a list"
        there = f"found a {type(value).__name__}" if value is not None else "there is none"
        raise problems.SQUAD_MALFORMED(where=where, _words=words, _name=name, _found=there)
    return value
