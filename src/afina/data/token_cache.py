"""A cache of tokenized splits on disk: each split is tokenized once, and training reads its tokens memory-mapped.

Each tokenized split has a directory, `<cache>/encodings/<key>`. The key is a hash of everything that determines the
tokens. If the cache is damaged, full or not writable, a run takes more time or memory, but does not fail.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Self

import numpy as np

from afina import assets, digest, file_io
from afina.data import problems
from afina.data.answer_tokens import LeftOut, References, encode_references, without_long
from afina.data.batch import Loader
from afina.data.kinds import CLASSES, Kind, Long
from afina.data.prompt_encoding import PromptEncoding
from afina.data.readers.source import counted
from afina.data.readers.target_kinds import TARGETS
from afina.data.shots import PromptExamples
from afina.data.split import Split
from afina.data.task import Task
from afina.data.template import Template
from afina.data.text_hashes import TextHashes
from afina.data.tokenize import Encoded, encode, has_types, pieces
from afina.data.word_tokens import WordTokens, encode_words
from afina.errors import CannotWrite
from afina.sentence import Sentence

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CACHE_LIMIT = 4 * 2**30
"""The largest size in bytes of the cache of tokenized splits; the least recently used ones are removed first."""

_FORMAT = 1
_TOKENS, _OFFSETS, _SECOND, _ABOUT = "tokens.npy", "offsets.npy", "second.npy", "about.json"


@dataclass(frozen=True, eq=False)
class EncodedSplit:
    """A tokenized split without its texts: the tokens, labels and digest that a run keeps.

    Attributes:
        encoded: The token ids of the texts; of the prompts, if the targets are texts; of the windows of the texts, if
            the targets are entities (`WordTokens`).
        digest: The digest of the split as it was read, before target texts that are too long were left out.
        references: The token ids of the target texts. None: the targets are not texts.
        weights: The weight of each text in the loss. None: all weights are 1.
        groups: The number of each text's group, such as its document, int64 [N]. None: each text is a group.
    """

    encoded: Encoded
    labels: np.ndarray
    digest: str
    references: References | None = None
    left_out: LeftOut = field(default_factory=LeftOut)
    weights: np.ndarray | None = None
    groups: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def part(self, start: int, stop: int) -> EncodedSplit:
        """Return the texts `start` to `stop - 1`, without what only a whole split has: digest, left-out texts."""
        rows, references = slice(start, stop), self.references
        return EncodedSplit(
            self.encoded.part(start, stop),
            self.labels[rows],
            "",
            None if references is None else references.take(np.arange(start, stop)),
            weights=None if self.weights is None else self.weights[rows],
            groups=None if self.groups is None else self.groups[rows],
        )

    def taught(self, soft: np.ndarray, more: EncodedSplit | None, targets: np.ndarray, size: int, seed: int) -> Loader:
        """Return the training batches of the split and of `more`, texts without labels, for a student.

        `soft` are a teacher's outputs for the texts of the split and then of `more`, float32 [N, width].
        """
        count, others = len(self), 0 if more is None else len(more)
        encoded = self.encoded if more is None else Encoded.joined([self.encoded, more.encoded])
        whole = np.concatenate([targets, np.zeros((others, *targets.shape[1:]), targets.dtype)])
        weights = None
        if self.weights is not None:
            weights = np.concatenate([self.weights / self.weights.mean(), np.ones(others)])
        return Loader(encoded, whole, size, seed, weights, soft, count)

    def loader(self, targets: np.ndarray, batch_size: int, seed: int) -> Loader:
        if self.references is not None:
            return Loader(*self.references.sequences(self.encoded), batch_size, seed)
        if isinstance(self.encoded, WordTokens):
            tags, owners = self.encoded.tagged(targets), self.encoded.owners
            return Loader(self.encoded, tags, batch_size, seed, owners=owners)
        weights = None if self.weights is None else self.weights / self.weights.mean()
        return Loader(self.encoded, targets, batch_size, seed, weights)


@dataclass(frozen=True, eq=False)
class EncodedTask:
    """A tokenized task: the parts of a `Task` that a run keeps, without the texts.

    Attributes:
        trained_on: Hashes of the training texts, of the texts that fitted a temperature or a threshold, of the texts
            without labels and of the left-out rows.
        left_out: The number of rows of the file `without` by part (`LeftOutRows.counts`). None: there is no such file.
        unlabelled: Texts without labels, whose labels in the `EncodedSplit` have no meaning. None: no such texts.
        max_length: The largest number of tokens of a text; if targets are texts, the largest number of a prompt.
        answer_tokens: The number of tokens of the longest training target, including the end-of-sequence token. None:
            the targets are not texts.
        prompt_length: The largest number of tokens of a prompt with the fixed examples; `max_length` without examples.
    """

    address: str
    label_names: tuple[str, ...]
    train: EncodedSplit
    evaluation: EncodedSplit
    leaked: int
    kind: Kind = CLASSES
    metric: str | None = None
    ceiling: Mapping[str, float] = field(default_factory=dict)
    separator: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    calibration: EncodedSplit | None = None
    abstention: EncodedSplit | None = None
    selection: EncodedSplit | None = None
    data_digest: str | None = None
    trained_on: TextHashes | None = None
    pairs: bool = False
    max_length: int = 0
    answer_tokens: int | None = None
    prompt_length: int = 0
    unlabelled: EncodedSplit | None = None
    left_out: Mapping[str, int] | None = None

    @property
    def found(self) -> dict[str, Any]:
        """The kind of task and the separator of labels, as arguments of `Task.load`; empty for single-label classes."""
        found = {"kind": TARGETS[self.kind].told, "separator": self.separator}
        return {name: value for name, value in found.items() if value}

    @classmethod
    def of(
        cls,
        task: Task,
        tokenizer: PreTrainedTokenizerBase,
        tokenizer_digest: str,
        max_length: int,
        template: Template | None = None,
        examples: PromptExamples | None = None,
        most: int = 0,
    ) -> Self:
        """Tokenize the splits of a task, or read their tokens from the cache. Raises the same errors as `encode`.

        `most` is the maximum number of tokens of a prompt with `examples`; InvalidStudy is raised if they do not fit.
        """
        fitting = partial(_fitting, tokenizer, template, max_length, task.long)

        def encoded(split: Split, where: str) -> EncodedSplit:
            kept, references, left_out = train if split is task.train else fitting(split, where)
            if TARGETS[task.kind].of_words:
                return _in_windows(tokenizer, kept, length, where)
            made = encode_split(tokenizer, tokenizer_digest, kept, max_length=length, template=template, where=where)
            if prompts is not None and split is not task.train:
                made = prompts.encode(kept, made, where)
            return EncodedSplit(made, kept.labels, split.digest, references, left_out, kept.weights)

        train = fitting(task.train, "training text")
        answer_tokens = train[1].longest if train[1] else None
        length, room = max_length - (answer_tokens or 0), most - (answer_tokens or 0)
        prompts = None if examples is None else PromptEncoding(examples, tokenizer, length, room)
        given = (task.calibration, task.abstention, task.selection)
        calibration, abstention, selection = (encoded(one, "training text") if one else None for one in given)
        more = None if task.unlabelled is None else encoded(task.unlabelled.split, "text without a label")
        learnt, measured = encoded(task.train, "training text"), encoded(task.evaluation, "evaluation text")
        aside = [part for part in (calibration, abstention, selection) if part]
        return cls(
            task.address,
            task.label_names,
            learnt,
            measured,
            task.leaked,
            task.kind,
            task.metric,
            task.ceiling,
            task.separator,
            task.columns,
            (*task.notes, *task.repetitions, *_notes([learnt, *aside], measured, max_length)),
            calibration,
            abstention,
            selection,
            task.data_digest,
            _hashes(train[0], task),
            task.train.pairs is not None,
            length,
            answer_tokens,
            prompts.max_length if prompts else length,
            more,
            task.left_out.counts if task.left_out else None,
        )


def _in_windows(tokenizer: PreTrainedTokenizerBase, split: Split, max_length: int, where: str) -> EncodedSplit:
    windows = encode_words(tokenizer, split.texts, max_length=max_length, spaced=split.spaced, where=where)
    return EncodedSplit(windows, split.labels, split.digest, groups=split.group_numbers)


def _notes(learnt: Sequence[EncodedSplit], measured: EncodedSplit, max_length: int) -> tuple[str, ...]:
    return (*_without_targets(learnt, measured, max_length), *_divided([*learnt, measured], max_length))


def _divided(parts: Sequence[EncodedSplit], max_length: int) -> tuple[str, ...]:
    given = [part.encoded for part in parts if isinstance(part.encoded, WordTokens)]
    count = sum(int((np.bincount(one.owners, minlength=one.texts) > 1).sum()) for one in given)
    if not count:
        return ()
    return (
        f"{count:,} text{'s have' if count != 1 else ' has'} more than {max_length:,} tokens, so the model reads "
        f"{'them' if count != 1 else 'it'} in overlapping windows.",
    )


def _hashes(train: Split, task: Task) -> TextHashes:
    """Return the hashes of all texts that are no new texts for the adapter.

    Left-out rows are among them, because an evaluation on the doubtful rows alone would say nothing about other texts.
    """
    more = (task.unlabelled and task.unlabelled.split, task.left_out and task.left_out.split)
    beside = (task.calibration, task.abstention, *more)
    return TextHashes.of(chain(train, *(part for part in beside if part)))


def _fitting(
    tokenizer: PreTrainedTokenizerBase, template: Template | None, max_length: int, long: Long, split: Split, where: str
) -> tuple[Split, References | None, LeftOut]:
    if template is None or split.labels.dtype.kind != "O":
        return split, None, LeftOut()
    found = encode_references(tokenizer, split.texts, split.pairs, split.labels, template, where=where)
    return without_long(split, found, max_length, long, where)


def check_positions(split: EncodedSplit, most: int) -> None:
    """Raise InvalidData if an evaluation prompt and its target exceed `most` tokens, the model's maximum length.

    Prompts are cut so that the longest training target fits, but an evaluation target may be longer.
    """
    if split.references is None or not len(split):
        return
    lengths = split.encoded.lengths[split.references.owners] + split.references.tokens.lengths - 1
    worst = int(np.argmax(lengths))
    if lengths[worst] > most:
        rows = np.delete(np.arange(len(split) + len(split.left_out.rows)), np.array(split.left_out.rows, np.int64))
        row = int(rows[split.references.owners[worst]]) + 1
        raise problems.EVALUATION_TOO_LONG(row=row, found=int(lengths[worst]), most=most)


def _without_targets(learnt: Sequence[EncodedSplit], measured: EncodedSplit, max_length: int) -> tuple[str, ...]:
    counts = sum(part.left_out.targets for part in learnt), measured.left_out.targets
    if not any(counts):
        return ()
    note = Sentence.of(
        "Left out because they have more than {half:,} tokens, half of `max_length`: {learnt} and {measured}.",
        half=max_length // 2,
        learnt=counted(counts[0], "training target"),
        measured=counted(counts[1], "evaluation target"),
    )
    return (note,)


def encode_split(
    tokenizer: PreTrainedTokenizerBase,
    tokenizer_digest: str,
    split: Split,
    *,
    max_length: int,
    template: Template | None = None,
    where: str = "text",
) -> Encoded:
    """Tokenize a split, or open its tokens in the cache; return the tokens as memory-mapped arrays."""
    if not len(split):
        return encode(tokenizer, [], max_length=max_length)
    typed = has_types(tokenizer, pairs=split.pairs is not None, template=template)
    asked = {
        "format": _FORMAT,
        "split": split.digest,
        "tokenizer": tokenizer_digest,
        # settings that change the tokenizer's output and are not in its digest
        "truncation_side": tokenizer.truncation_side,
        "split_special_tokens": tokenizer.split_special_tokens,
        "max_length": max_length,
        **({"template": template.source} if template else {}),
        **({} if template is None or template.special_tokens else {"special_tokens": False}),
        **({"token_types": True} if typed else {}),
        "versions": {name: version(name) for name in ("tokenizers", "transformers")},
    }
    place = assets.cache_directory() / "encodings" / digest.of_json(asked).removeprefix(digest.PREFIX)[:32]
    texts, pairs = split.texts, split.pairs
    found = _open(place, len(split), typed)
    if found is None:
        with suppress(OSError, CannotWrite):  # not writable, full, or written by another process meanwhile
            made = pieces(tokenizer, texts, pairs, max_length=max_length, template=template, where=where)
            _make(place, made, typed)
            file_io.trim(place, CACHE_LIMIT)
        found = _open(place, len(split), typed)
    return found or encode(tokenizer, texts, pairs, max_length=max_length, template=template, where=where)


def _files(typed: bool) -> tuple[str, ...]:
    return (_TOKENS, _OFFSETS, _SECOND) if typed else (_TOKENS, _OFFSETS)


def _open(place: Path, count: int, typed: bool) -> Encoded | None:
    """Return the cached tokens of a split of `count` texts; None if the cache's directory is missing or damaged."""
    try:
        about = json.loads((place / _ABOUT).read_text(encoding="utf-8"))
        if about["files"] != digest.of_files(place, _files(typed)):
            return None
        tokens, offsets, *second = (np.load(place / name, mmap_mode="r") for name in _files(typed))
        encoded = Encoded(tokens, offsets, about["truncated"], *second)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    with suppress(OSError):
        place.touch()  # marks the encoding as used most recently
    return encoded if len(encoded) == count else None


def _make(place: Path, parts: Iterator[Encoded], typed: bool) -> None:
    with file_io.replacing(place) as fresh, ExitStack() as stack:
        fresh.mkdir()
        tokens, offsets, *second = (stack.enter_context((fresh / name).open("wb")) for name in _files(typed))
        _header(tokens, np.int32, 0)
        _header(offsets, np.int64, 0)
        for file in second:
            _header(file, np.int32, 0)
        offsets.write(np.zeros(1, np.int64).tobytes())
        total, count, truncated = 0, 0, 0
        for part in parts:
            tokens.write(part.tokens.tobytes())
            offsets.write((total + part.offsets[1:]).tobytes())
            for file in second:
                assert part.second is not None
                file.write(part.second.tobytes())
            total, count, truncated = total + len(part.tokens), count + len(part), truncated + part.truncated
        _header(tokens, np.int32, total)
        _header(offsets, np.int64, count + 1)
        for file in second:
            _header(file, np.int32, count)
        for written in (tokens, offsets, *second):
            written.close()
        about = {"truncated": truncated, "files": digest.of_files(fresh, _files(typed))}
        (fresh / _ABOUT).write_text(json.dumps(about), encoding="utf-8")


def _header(file: BinaryIO, dtype: type, length: int) -> None:
    """Write the header of a .npy file with a one-dimensional array of `length` values at the start of `file`."""
    file.seek(0)
    descr = np.lib.format.dtype_to_descr(np.dtype(dtype))
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": (length,)})
