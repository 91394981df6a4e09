"""Divide an adapter into the parts that a store keeps: the tensors of the body, the tensors of the head, other files.

Each part has a digest. Versions with the same body, head or tokenizer share the stored bytes of this part.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from afina import digest, file_io, tensorfile
from afina.data import text_hashes
from afina.data.text_hashes import TextHashes
from afina.errors import CorruptAdapter
from afina.methods.peft_settings import disagreement
from afina.models.adapter import PEFT_SETTINGS, VOCABULARY, Adapter, read_vocabulary, words_changed, write_vocabulary
from afina.models.architectures import is_head
from afina.models.manifest import MANIFEST, Manifest, checked
from afina.store import problems
from afina.store.intake import SUFFIXES, TENSORS, is_plain_name
from afina.store.versions import Blob, PartFile

if TYPE_CHECKING:
    from torch import Tensor

BODY_ROLE, HEAD_ROLE = "body", "head"
"""The roles of the two parts of a version that hold tensors. The role of any other part is its file name."""

CARD = "README.md"
"""The file name of the model card, which is made from a version and is not stored as a part of the version."""


def is_role(name: object) -> bool:
    return name in (BODY_ROLE, HEAD_ROLE) or (isinstance(name, str) and is_plain_name(name))


def split(
    adapter: Adapter, scratch: Path, directory: Path | None = None, *, links: bool = False, texts: bool = True
) -> dict[str, PartFile]:
    """Write the parts of an adapter to files in `scratch`, and return the parts by role.

    A body or a head without tensors is left out.

    Args:
        directory: the adapter's directory, whose other files (not tensors) also become parts. None: the adapter was
            made in memory.
        links: whether files may be symbolic links. By default, links are not followed, because a link may have replaced
            a file after the file's inspection.
        texts: whether to keep the hashes of the training texts.
    """
    parts = {}
    with file_io.writing(scratch):
        scratch.mkdir(parents=True, exist_ok=True)
        for role, tensors in _halves(adapter.tensors).items():
            if tensors:
                tensorfile.write(scratch / role, tensors)
                parts[role] = _part(scratch / role)
        if adapter.vocabulary is not None:
            write_vocabulary(scratch, adapter.vocabulary)
            parts[VOCABULARY] = _part(scratch / VOCABULARY)
        for file in _beside(adapter.manifest, directory) if directory is not None else ():
            name = file.name
            if name not in parts and (texts or name != text_hashes.HASHES_FILE):
                _copy(file, scratch / name, links)
                parts[name] = _part(scratch / name)
    return parts


def join(manifest: Mapping[str, Any], parts: Mapping[str, Path], where: str) -> Adapter:
    """Make an adapter from its manifest and its parts. Raises CorruptStore if the parts do not match the manifest."""
    try:
        stated = checked(manifest, "its manifest")
        tensors = _joined(parts, where)
        seen = TextHashes.read(parts[text_hashes.HASHES_FILE]) if text_hashes.HASHES_FILE in parts else None
        adapter = Adapter(stated, tensors, where, _words(stated, parts, where), seen)
        if (wrong := adapter.mismatch()) is None:
            return adapter
        if wrong.what == "words":
            raise words_changed(parts[VOCABULARY], wrong)
        raise problems.DIGEST_DIFFERS(
            found=wrong.found, expected=wrong.stated, where=where, what="tensors", _name="the set of tensors"
        )
    except CorruptAdapter as error:
        raise problems.ADAPTER_CORRUPT(reason=error.sentence, where=where, cause=error.code) from None


def restore(directory: Path, manifest: Mapping[str, Any], parts: Mapping[str, Path], where: str) -> Adapter:
    """Write the directory of a published adapter atomically, with the files that it was published with.

    Raises CorruptStore if the parts do not match the manifest.
    """
    adapter = join(manifest, parts, where)
    written = {BODY_ROLE, HEAD_ROLE, text_hashes.HASHES_FILE} | (
        {VOCABULARY} if adapter.vocabulary is not None else set()
    )
    beside = parts.keys() - written
    for name in sorted(beside):
        if not is_plain_name(name) or name.endswith(TENSORS) or name == MANIFEST:
            reason = f"the file {name[:80]!r} is not allowed in a store."
            raise problems.ADAPTER_CORRUPT(where=where, reason=reason, file=name[:80])

    if PEFT_SETTINGS in beside:
        settings = file_io.read_object(parts[PEFT_SETTINGS])
        if problem := disagreement(manifest, settings, adapter.tensors):
            raise problems.ADAPTER_CORRUPT(where=where, reason=f"{PEFT_SETTINGS}: {problem}.", file=PEFT_SETTINGS)

    def copy_files(fresh: Path) -> None:
        for name in beside:
            shutil.copyfile(parts[name], fresh / name)

    adapter.save(directory, copy_files)
    return adapter


def _is_as_written(role: str, adapter: Adapter, file: Path) -> bool:
    """Return whether a file is the one that `split` writes: `join` has hashed the tensors, so its header is enough."""
    return tensorfile.has_header(file, _halves(adapter.tensors)[role])


AS_WRITTEN: Mapping[str, Callable[[Adapter, Path], bool]] = {
    role: partial(_is_as_written, role) for role in (BODY_ROLE, HEAD_ROLE)
}
"""Functions that check the files of the body's and the head's tensors, for the argument `shows` of `use_files`."""


def _copy(source: Path, target: Path, links: bool) -> None:
    try:
        opened = os.open(source, os.O_RDONLY | (0 if links else os.O_NOFOLLOW))
    except OSError as error:
        raise problems.FILE_CHANGED(reason=error.strerror, path=source) from None
    with os.fdopen(opened, "rb") as file, target.open("wb") as copy:
        shutil.copyfileobj(file, copy)


def _halves(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Return the tensors of body and head, sorted, so that files do not depend on the order of the parameters."""
    halves: dict[str, dict[str, Tensor]] = {BODY_ROLE: {}, HEAD_ROLE: {}}
    for name in sorted(tensors):
        halves[HEAD_ROLE if is_head(name) else BODY_ROLE][name] = tensors[name]
    return halves


def _part(file: Path) -> PartFile:
    return PartFile(file, Blob(digest.of_file(file), file.stat().st_size))


def _beside(manifest: Manifest, directory: Path) -> list[Path]:
    own = (MANIFEST, CARD, manifest.tensor_file)
    paths = sorted(path for path in directory.iterdir() if not path.name.startswith(".") and path.name not in own)
    for path in paths:
        if not is_plain_name(path.name) or path.name.endswith(TENSORS):
            raise problems.FILE_NAME_NOT_ALLOWED(known=SUFFIXES[1:], path=path)
        file_io.check_plain(path)
    return paths


def _joined(parts: Mapping[str, Path], where: str) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for role in (BODY_ROLE, HEAD_ROLE):
        half = tensorfile.read(parts[role])[0] if role in parts else {}
        for name, tensor in half.items():
            if is_head(name) != (role == HEAD_ROLE):
                reason = f"the tensor {name[:80]!r} does not belong in the part {role}."
                raise problems.ADAPTER_CORRUPT(where=where, reason=reason, part=role, tensor=name[:80])
            tensors[name] = tensor
    return tensors


def _words(manifest: Manifest, parts: Mapping[str, Path], where: str) -> tuple[str, ...] | None:
    if manifest.vocabulary_digest is None:
        return None
    if VOCABULARY not in parts:
        raise problems.ADAPTER_CORRUPT(where=where, reason=f"the file {VOCABULARY} is missing.", file=VOCABULARY)
    return read_vocabulary(parts[VOCABULARY])
