"""What a version consists of: the body's tensors, the head's, and the files beside them, each by its own digest.

So versions that share a body, a head or a tokenizer share the bytes. Knows neither blobs nor a catalogue.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from afina import digest, file_io, tensorfile
from afina.data import leakage
from afina.data.leakage import TextHashes
from afina.errors import AfinaError, CorruptAdapter, CorruptStore, Refused
from afina.methods.peft_settings import disagreement
from afina.models.adapter import (
    PEFT_SETTINGS,
    VOCABULARY,
    Adapter,
    read_vocabulary,
    words_changed,
    write_vocabulary,
)
from afina.models.architectures import is_head
from afina.models.manifest import MANIFEST, Manifest, checked, read_manifest
from afina.store.intake import SUFFIXES, TENSORS, is_plain_name

if TYPE_CHECKING:
    from torch import Tensor

BODY_ROLE, HEAD_ROLE = "body", "head"
"""Roles of a version's tensors; every other role is the name of a file, which has a suffix."""

AGAIN = "`afina store verify` says what else is damaged; publish the adapter again from where it was made."


CARD = "README.md"
"""The model card: rendered from a version, and no part of one."""


class PartFile(NamedTuple):
    """A file of a version: what it is there, where it lies for now, `sha256:...` and bytes of its content."""

    role: str
    file: Path
    digest: str
    size: int


def is_role(name: object) -> bool:
    """Whether a part may be called that."""
    return name in (BODY_ROLE, HEAD_ROLE) or (isinstance(name, str) and is_plain_name(name))


def split(adapter: Adapter, scratch: Path, *, links: bool = False, texts: bool = True) -> dict[str, PartFile]:
    """The parts of an adapter, written to files in `scratch`, by role; a body or head without tensors is no part.

    texts  with the hashes of the texts that it was trained on, where it has them

    What lies beside its tensors where it was read from comes along; links that were put there since it was inspected
    are not followed, unless links are meant to be. Raises Refused for a file that is none a store keeps, CorruptAdapter
    for what cannot be read, CannotWrite.
    """
    source = Path(adapter.where)
    there = _is_of(adapter, source)
    made = {}
    with file_io.writing(scratch):
        scratch.mkdir(parents=True, exist_ok=True)
        for role, tensors in _halves(adapter.tensors).items():
            if tensors:
                tensorfile.write(scratch / role, tensors)
                made[role] = _part(role, scratch / role)
        if adapter.vocabulary is not None:
            write_vocabulary(scratch, adapter.vocabulary)
            made[VOCABULARY] = _part(VOCABULARY, scratch / VOCABULARY)
        for name in _beside(adapter.manifest, source) if there else ():
            if name not in made and (texts or name != leakage.HASHES_FILE):
                _copy(source / name, scratch / name, links)
                made[name] = _part(name, scratch / name)
    return made


def join(manifest: Mapping[str, Any], parts: Mapping[str, Path], where: str) -> Adapter:
    """The adapter of a manifest, with the digest that it states, and of the files of its parts, by role.

    `where` names it in messages. Raises CorruptStore where they are not what the manifest says.
    """
    try:
        stated = checked(manifest, "its manifest")
        tensors = _joined(parts, where)
        seen = TextHashes.read(parts[leakage.HASHES_FILE]) if leakage.HASHES_FILE in parts else None
        made = Adapter(stated, tensors, where, _words(stated, parts, where), seen)
        if (wrong := made.mismatch()) is None:
            return made
        if wrong.what == "words":
            raise CorruptAdapter(
                words_changed(parts[VOCABULARY], wrong), code="adapter.changed", path=parts[VOCABULARY]
            )
        raise CorruptStore(
            f"{where}: its {len(tensors)} tensors have digest {wrong.found[:19]}, its manifest says "
            f"{wrong.stated[:19]}. {AGAIN}",
            code="store.content-changed",
            where=where,
            what="tensors",
        )
    except CorruptAdapter as error:
        raise CorruptStore(
            f"{where}: {error} {AGAIN}", code="store.content-changed", where=where, cause=error.code
        ) from None


def restore(directory: Path, manifest: Mapping[str, Any], parts: Mapping[str, Path], where: str) -> Adapter:
    """Write `directory`, whole or not at all, as the adapter's was when it was published, and return the adapter.

    Raises CorruptStore as `join` does, CannotWrite.
    """
    adapter = join(manifest, parts, where)
    written = {BODY_ROLE, HEAD_ROLE, leakage.HASHES_FILE} | ({VOCABULARY} if adapter.vocabulary is not None else set())
    beside = parts.keys() - written
    for name in sorted(beside):
        if not is_plain_name(name) or name.endswith(TENSORS) or name == MANIFEST:
            raise CorruptStore(
                f"{where}: {name[:80]!r} is among its files, where a store keeps none such. {AGAIN}",
                code="store.content-changed",
                where=where,
                file=name[:80],
            )

    if PEFT_SETTINGS in beside:
        said = file_io.read_object(parts[PEFT_SETTINGS])
        if problem := disagreement(manifest, said, adapter.tensors):
            raise CorruptStore(
                f"{where}: its {PEFT_SETTINGS}: {problem}. {AGAIN}",
                code="store.content-changed",
                where=where,
                file=PEFT_SETTINGS,
            )

    def accompany(fresh: Path) -> None:
        for name in beside:
            shutil.copyfile(parts[name], fresh / name)

    adapter.save(directory, accompany)
    return adapter


def _is_as_written(role: str, adapter: Adapter, file: Path) -> bool:
    """Whether a file that an adapter was just joined from is what `split` writes; False: it is not, or that is unknown.

    `join` has hashed the tensors, so what is left to compare is the file's header.
    """
    return tensorfile.has_header(file, _halves(adapter.tensors)[role])


AS_WRITTEN: Mapping[str, Callable[[Adapter, Path], bool]] = {
    role: partial(_is_as_written, role) for role in (BODY_ROLE, HEAD_ROLE)
}
"""For `reader.use_files`."""


def _copy(source: Path, target: Path, links: bool) -> None:
    try:
        opened = os.open(source, os.O_RDONLY | (0 if links else os.O_NOFOLLOW))
    except OSError as error:
        raise Refused(
            f"{source}: cannot be read as a file ({error.strerror}). Was it changed meanwhile?",
            code="file.changed",
            path=source,
        ) from None
    with os.fdopen(opened, "rb") as file, target.open("wb") as copy:
        shutil.copyfileobj(file, copy)


def _halves(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """In the order of the names: then no file depends on the order in which a model has its parameters."""
    halves: dict[str, dict[str, Tensor]] = {BODY_ROLE: {}, HEAD_ROLE: {}}
    for name in sorted(tensors):
        halves[HEAD_ROLE if is_head(name) else BODY_ROLE][name] = tensors[name]
    return halves


def _part(role: str, file: Path) -> PartFile:
    return PartFile(role, file, digest.of_file(file), file.stat().st_size)


def _is_of(adapter: Adapter, directory: Path) -> bool:
    """Whether the directory holds this adapter: one that was made in memory may be called like somebody else's."""
    try:
        if (directory / MANIFEST).exists():
            return read_manifest(directory).digest == adapter.digest
        return Adapter.load(directory).digest == adapter.digest
    except (AfinaError, OSError, ValueError):
        return False


def _beside(manifest: Manifest, directory: Path) -> list[str]:
    names = sorted(path.name for path in directory.iterdir() if not path.name.startswith("."))
    found = [name for name in names if name not in (MANIFEST, CARD, manifest.tensor_file)]
    for name in found:
        if not is_plain_name(name) or name.endswith(TENSORS):
            raise Refused(
                f"{directory / name}: a store keeps files of its own kinds beside an adapter's tensors "
                f"({', '.join(SUFFIXES[1:])}), not this one. Move it elsewhere.",
                code="intake.file-unexpected",
                path=directory / name,
            )
        file_io.check_plain(directory / name)
    return found


def _joined(parts: Mapping[str, Path], where: str) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for role in (BODY_ROLE, HEAD_ROLE):
        found = tensorfile.read(parts[role])[0] if role in parts else {}
        for name, tensor in found.items():
            if is_head(name) != (role == HEAD_ROLE):
                raise CorruptStore(
                    f"{where}: the tensor {name[:80]!r} is in its {role}, where it does not belong. {AGAIN}",
                    code="store.content-changed",
                    where=where,
                    tensor=name[:80],
                )
            tensors[name] = tensor
    return tensors


def _words(manifest: Manifest, parts: Mapping[str, Path], where: str) -> tuple[str, ...] | None:
    if manifest.vocabulary_digest is None:
        return None
    if VOCABULARY not in parts:
        raise CorruptStore(
            f"{where}: {VOCABULARY} is missing among its files, its manifest asks for it. {AGAIN}",
            code="store.content-changed",
            where=where,
            file=VOCABULARY,
        )
    return read_vocabulary(parts[VOCABULARY])
