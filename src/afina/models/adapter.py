"""`Adapter`: the tensors that a training run changed, and a manifest that describes them.

Only this module reads and writes an adapter's directory: `manifest.json`, one safetensors file, and optionally a
vocabulary, hashes of the training texts, and the small files with which peft or transformers opens the same tensors.
The module does not know adaptation methods or models.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from afina import digest, file_io, tensorfile
from afina.data import text_hashes
from afina.data.kinds import NUMBER, TEXT
from afina.data.text_hashes import TextHashes
from afina.errors import CorruptAdapter
from afina.models import problems
from afina.models.architectures import head_names, is_output
from afina.models.backbone_spec import FLOAT, LONGEST_ADDRESS, precision_of
from afina.models.manifest import MANIFEST, Manifest, read_manifest
from afina.repr_html import ReprCard

if TYPE_CHECKING:
    from torch import Tensor

VOCABULARY = "vocabulary.json"
MOST_VOCABULARY = 256 << 20
"""Maximum size of the vocabulary file, in bytes."""

PEFT_SETTINGS = "adapter_config.json"
PEFT_TENSORS = "adapter_model.safetensors"
FOREIGN = "peft"
"""Value of `method` in the manifest of an adapter that peft saved and afina did not train."""

_OWN_FILES = (text_hashes.HASHES_FILE, VOCABULARY)
"""Files that only afina writes into an adapter's directory, always together with a manifest."""


class Mismatch(NamedTuple):
    """The part of an adapter (`tensors` or `words`) whose digest differs from its manifest, with both digests."""

    what: str
    found: str
    stated: str


@dataclass(frozen=True, eq=False, repr=False)
class Adapter(ReprCard):
    """An adapter in memory: a manifest and the tensors that it describes.

    Attributes:
        tensors: The tensors that training changed, by name.
        where: The directory from which the adapter was read, for error messages.
        vocabulary: The terms of a bag-of-words model, one for each column of its weights. None: no vocabulary.
        trained_on: Hashes of the training texts, outside the adapter's digest. None: the training texts are unknown.
        peft_settings: Content of peft's `adapter_config.json`, outside the adapter's digest;
            `methods.peft_settings.check_agrees` compares it with the manifest. None: there is no such file.
    """

    manifest: Manifest
    tensors: Mapping[str, Tensor]
    where: str = "adapter"
    vocabulary: tuple[str, ...] | None = None
    trained_on: TextHashes | None = None
    peft_settings: Mapping[str, Any] | None = None
    _matched: bool = field(default=False, init=False)

    def facts(self) -> dict[str, object]:
        return {
            "where": self.where,
            **self.manifest.summary,
            "tensors": len(self.tensors),
            "numbers in them": sum(tensor.numel() for tensor in self.tensors.values()),
        }

    @property
    def digest(self) -> str:
        return self.manifest.digest

    def mismatch(self) -> Mismatch | None:
        """Return the first part of the adapter whose digest differs from the manifest; None: all digests match.

        A match is remembered by this `Adapter`. A tensor that is changed in place after a match is not noticed: if
        other code holds the tensors, check a copy of them.
        """
        if self._matched:
            return None
        stated, stated_words = self.manifest.tensors_digest, self.manifest.vocabulary_digest
        if (found := digest.of_tensors(self.tensors)) != stated:
            return Mismatch("tensors", found, stated)
        words = None if self.vocabulary is None else digest.of_strings(self.vocabulary)
        if words != stated_words:
            return Mismatch("words", str(words), str(stated_words))
        object.__setattr__(self, "_matched", True)
        return None

    def save(self, path: str | Path, accompany: Callable[[Path], None] = lambda fresh: None) -> None:
        """Write the adapter's directory atomically; `accompany` adds the files that other libraries read."""
        with file_io.replacing(Path(path)) as fresh:
            fresh.mkdir()
            accompany(fresh)
            tensorfile.write(fresh / self.manifest.tensor_file, self.tensors)
            if self.vocabulary is not None:
                write_vocabulary(fresh, self.vocabulary)
            if self.trained_on is not None:
                self.trained_on.write(fresh / text_hashes.HASHES_FILE)
            content = self.manifest.model_dump(mode="json") | {"digest": self.digest}
            (fresh / MANIFEST).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path, precision: str | None = None) -> Adapter:
        """Read an adapter that afina or peft saved.

        Args:
            precision: How the backbone's frozen weights were stored when peft trained the adapter, a key of
                `PRECISIONS`; peft's files do not say this. If `precision` is None, it is that of afina's manifest, or
                "float" for an adapter of peft.

        Raises:
            NotFound: The directory `path` has no adapter.
            CorruptAdapter: A file is damaged, has an unknown format, or differs from the manifest.
            UnknownName: There is no precision with this name.
            InvalidStudy: The manifest states another precision than `precision`.
        """
        path = Path(path)
        return cls.of_files(path, read_manifest(path) if _lies(path / MANIFEST) else None, precision)

    @classmethod
    def of_files(cls, path: Path, manifest: Manifest | None, precision: str | None = None) -> Adapter:
        """Read an adapter whose manifest has already been read; None for an adapter made by peft. Raises as `load`."""
        if precision is not None:
            precision_of(precision, str(path))
        if manifest is None:
            return cls._load_peft(path, FLOAT if precision is None else precision)
        if precision not in (None, manifest.precision):
            raise problems.PRECISION_OF_MANIFEST(
                expected=manifest.precision, found=precision, path=path, option="precision"
            )
        tensors, _ = tensorfile.read(path / manifest.tensor_file)
        words = None if manifest.vocabulary_digest is None else read_vocabulary(path / VOCABULARY)
        settings = file_io.read_object(path / PEFT_SETTINGS) if _lies(path / PEFT_SETTINGS) else None
        made = cls(manifest, tensors, str(path), words, _trained_on(path), settings)
        if (wrong := made.mismatch()) is not None:
            if wrong.what == "words":
                raise words_changed(path / VOCABULARY, wrong)
            part = f"the tensors in {manifest.tensor_file} have"
            raise problems.FILE_CHANGED(
                _part=part, found=wrong.found, expected=wrong.stated, path=path, file=manifest.tensor_file
            )
        return made

    @classmethod
    def _load_peft(cls, path: Path, precision: str) -> Adapter:
        check_there(path)
        refuse_incomplete(path)
        settings = file_io.read_object(path / PEFT_SETTINGS)
        check_outputs_known(settings, path)
        tensors, _ = tensorfile.read(path / PEFT_TENSORS)
        heads = [tensor for name, tensor in tensors.items() if is_output(name) and name.endswith("weight")]
        if not heads and answers_with_texts(settings):
            facts: dict[str, Any] = {"objective": {"kind": TEXT}, "template": "{text}"}
            return cls._of_peft(path, settings, tensors, ("answer",), precision=precision, **facts)
        if not heads or heads[0].dim() != 2 or not len(heads[0]):
            raise problems.HEAD_MISSING(expected=head_names(), path=path)
        width = heads[0].shape[0]
        names = tuple(f"LABEL_{index}" for index in range(width))
        # transformers treats a head with one row as regression
        objective = None if width > 1 else {"kind": NUMBER}
        return cls._of_peft(path, settings, tensors, names, precision=precision, objective=objective)

    @classmethod
    def _of_peft(
        cls, path: Path, settings: dict[str, Any], tensors: dict[str, Tensor], names: tuple[str, ...], **facts: Any
    ) -> Adapter:
        manifest = Manifest(
            method=FOREIGN,
            hyperparameters=settings,
            label_names=names,
            backbone=_base(settings, path),
            backbone_digest=None,
            tokenizer_digest=None,
            family=None,
            tensor_file=PEFT_TENSORS,
            tensors_digest=digest.of_tensors(tensors),
            max_length=0,
            **facts,
        )
        made = cls(manifest, tensors, str(path))
        object.__setattr__(made, "_matched", True)  # the manifest's digest was just computed from these tensors
        return made


def answers_with_texts(settings: Mapping[str, Any]) -> bool:
    """Return whether peft's settings are those of a language model, which has no classification head."""
    return settings.get("task_type") == "CAUSAL_LM"


def check_outputs_known(settings: Mapping[str, Any], path: Path) -> None:
    """Raise InvalidStudy for a token classifier of peft: no file of it says which tag each output is."""
    if settings.get("task_type") == "TOKEN_CLS":
        raise problems.TAGS_UNKNOWN(path=path)


def is_of_peft(path: Path) -> bool:
    """Return whether the directory `path` has an adapter that was made by peft and not by afina."""
    return not _lies(path / MANIFEST) and _lies(path / PEFT_SETTINGS)


def check_there(path: Path) -> None:
    """Raise NotFound if the directory `path` has no adapter; opens no file."""
    if not _lies(path / MANIFEST) and not _lies(path / PEFT_SETTINGS):
        raise problems.ADAPTER_MISSING(path=path)


def refuse_incomplete(path: Path, own: str | None = None) -> None:
    """Raise CorruptAdapter if afina wrote an adapter into `path`, but the manifest is missing.

    Args:
        own: In words, how the caller knows that afina wrote the directory. None: files that only afina writes tell.
    """
    own = own or next((name for name in _OWN_FILES if _lies(path / name)), None)
    if own is not None and not _lies(path / MANIFEST):
        raise problems.MANIFEST_MISSING(found=own, path=path, file=MANIFEST)


def _lies(path: Path) -> bool:
    """Return whether the path exists, as a file of any kind; the function that reads the file checks the kind."""
    try:
        return os.path.lexists(path)
    except ValueError:  # not a valid file name
        return False


def _trained_on(path: Path) -> TextHashes | None:
    return TextHashes.read(path / text_hashes.HASHES_FILE) if _lies(path / text_hashes.HASHES_FILE) else None


def _base(settings: Mapping[str, Any], path: Path) -> str | None:
    base = settings.get("base_model_name_or_path")
    revision = settings.get("revision")
    for name, value in (("base_model_name_or_path", base), ("revision", revision)):
        if value is not None and not (isinstance(value, str) and len(value) <= LONGEST_ADDRESS):
            raise problems.BACKBONE_NAME_MALFORMED(
                found=str(value)[:40], most=LONGEST_ADDRESS, path=path / PEFT_SETTINGS, field=name
            )
    if (
        base
        and isinstance(revision, str)
        and revision not in ("", "main")
        and "@" not in base
        and not _lies(Path(base))
    ):
        return f"{base}@{revision}"  # peft stores a repository's revision in a field of its own
    return base or None


def write_vocabulary(directory: Path, words: Sequence[str]) -> None:
    """Write an adapter's vocabulary into a directory."""
    (directory / VOCABULARY).write_text(json.dumps(words, ensure_ascii=False), encoding="utf-8")


def read_vocabulary(file: Path) -> tuple[str, ...]:
    """Return the vocabulary in a file without checking its digest. Raises CorruptAdapter for anything but strings."""
    words = file_io.read_json(file, MOST_VOCABULARY)
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise problems.NOT_STRINGS(path=file)
    return tuple(words)


def words_changed(file: Path, wrong: Mismatch) -> CorruptAdapter:
    """Return the error for a vocabulary file whose digest differs from the manifest."""
    return problems.FILE_CHANGED(_part="the file has", path=file, found=wrong.found, expected=wrong.stated)
