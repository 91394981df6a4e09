"""Adapters from elsewhere, and to elsewhere: directories, bundles, the Hub, merged models.

Whatever comes in goes through `publish`, so that there is one door with one guard.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from afina import file_io, hub
from afina.data import leakage
from afina.errors import CorruptAdapter, InvalidStudy, NotFound, Refused
from afina.models.adapter import PEFT_SETTINGS
from afina.models.manifest import MANIFEST
from afina.store import adapter_parts
from afina.store.intake import IntakeLimits, bundle, inspection
from afina.store.reader import StoreReader
from afina.store.versions import PublishOutcome, Version

HUB = "hub:"
BUNDLE = ".tar"
_PRETRAINED = "config.json"

_WITH_HASHES = (
    f"{leakage.HASHES_FILE} went along: hashes of the training texts, by which whoever has them can test whether a "
    "text was trained on. --no-texts (`texts=False`) leaves them out."
)


def bring_in(
    source: str, publish: Callable[..., PublishOutcome], limits: IntakeLimits, *, message: str, backbone: str | None
) -> PublishOutcome:
    """Publish what is at `source`, by `AdapterStore.publish` under one name.

    source    a directory of afina's, of peft's, or of a classifier that `save_pretrained` wrote; a bundle, FILE.tar;
              hub:owner/name[@revision]
    backbone  what a classifier of transformers is to stand on; afina's and peft's adapters name theirs
    """
    keep = partial(publish, message=message, source=_shown(source))
    if source.startswith(HUB):
        directory = hub.download(source.removeprefix(HUB))
        return _directory(directory, keep, limits, backbone, links=True)
    path = Path(source)
    if path.is_dir():
        return _directory(path, keep, limits, backbone)
    if not os.path.lexists(path):
        raise NotFound(
            f"{source}: nothing is there. Give a directory, a bundle (.tar), or hub:owner/name.",
            code="file.missing",
            path=source,
        )
    if backbone is not None:
        raise InvalidStudy(
            f"{source}: a bundle says what it is for. Leave `backbone` out.",
            code="option.inapplicable",
            path=source,
            option="backbone",
        )
    with _workshop() as place:
        about = bundle.read(path, place / "parts", limits)
        parts, manifest = _parts(path, about, place / "parts"), about["manifest"]
        for role in (adapter_parts.BODY_ROLE, adapter_parts.HEAD_ROLE):
            if role in parts:
                inspection.check_finite(parts[role], inspection.read_header(parts[role], limits))
        adapter_parts.restore(place / "adapter", manifest, parts, str(path))
        return keep(place / "adapter")


def _parts(path: Path, about: Mapping[str, Any], place: Path) -> dict[str, Path]:
    """By role, the files that a bundle says an adapter is made of: members of it, and nothing else of this machine."""
    parts, there = about.get("parts"), {file.name for file in place.iterdir()}
    if not isinstance(parts, dict) or not isinstance(about.get("manifest"), dict):
        raise CorruptAdapter(
            f"{path}: a bundle, but not one of an adapter. Export it again.", code="adapter.file-malformed", path=path
        )
    for role, file in parts.items():
        if not isinstance(file, str) or file not in there or not adapter_parts.is_role(role):
            raise CorruptAdapter(
                f"{path}: its part {str(role)[:80]!r} is no file of the bundle. Export it again.",
                code="adapter.file-malformed",
                path=path,
                part=str(role)[:80],
            )
    return {role: place / file for role, file in parts.items()}


def _directory(
    path: Path, keep: Callable[..., PublishOutcome], limits: IntakeLimits, backbone: str | None, *, links: bool = False
) -> PublishOutcome:
    if os.path.lexists(path / MANIFEST) or os.path.lexists(path / PEFT_SETTINGS):
        if backbone is not None:
            raise InvalidStudy(
                f"{path}: the adapter names its backbone. Leave `backbone` out.",
                code="option.inapplicable",
                path=path,
                option="backbone",
            )
        return keep(path, links=links)
    if not os.path.lexists(path / _PRETRAINED):
        raise NotFound(
            f"{path}: neither an adapter ({MANIFEST} or {PEFT_SETTINGS}) nor a model ({_PRETRAINED}) is there. Name "
            "the directory that holds one of these.",
            code="adapter.missing",
            path=path,
        )
    if backbone is None:
        raise InvalidStudy(
            f"{path}: a model of transformers. Say what it was fine-tuned from with `backbone`.",
            code="option.missing",
            path=path,
        )
    from afina.inference import import_and_merge

    inspection.inspect_model(path, limits, links=links)
    with _workshop() as place:
        import_and_merge.read_pretrained(path, backbone).save(place / "adapter")
        return keep(place / "adapter")


def send_out(
    store: StoreReader,
    reference: str,
    target: str,
    *,
    merged: bool,
    backbone: str | None,
    private: bool,
    texts: bool = True,
) -> tuple[str, tuple[str, ...]]:
    """Write a version to `target`: a directory, a bundle where it ends in .tar, or hub:owner/name[@branch].

    merged    folded into its backbone, as a model that transformers opens alone
    backbone  where that is, if not at the address that the adapter names
    texts     with the hashes of the texts that it was trained on, where the version has them
    Returns where it is now, and what its user has to know.
    """
    version = store.show(reference)
    if backbone is not None and not merged:
        raise InvalidStudy(
            f"{version}: `backbone` is of use where it is merged only. Leave it out.",
            code="option.inapplicable",
            version=str(version),
            option="backbone",
        )
    if target.startswith(HUB):
        return _to_hub(store, version, target.removeprefix(HUB), merged, backbone, private, texts)
    if target.endswith(BUNDLE):
        if merged:
            raise InvalidStudy(
                f"{target}: a bundle holds an adapter as it is. Leave `merged` out.",
                code="option.inapplicable",
                path=target,
                option="merged",
            )
        if os.path.lexists(target):
            raise Refused(
                f"{target}: something is there already. Name a file that is not there yet.",
                code="out.exists",
                path=target,
            )
        _to_bundle(store, version, Path(target), texts)
        return target, ()
    return target, _to_directory(store, version, Path(target), merged, backbone, texts)


def _to_directory(
    store: StoreReader, version: Version, path: Path, merged: bool, backbone: str | None, texts: bool
) -> tuple[str, ...]:
    if os.path.lexists(path):
        raise Refused(
            f"{path}: something is there already. Name a directory that is not there yet.", code="out.exists", path=path
        )
    with file_io.replacing(path) as fresh:
        if merged:
            from afina.store import recompute

            notes = recompute.merge(store.adapter(str(version)), fresh, backbone)
        else:
            store.restore(str(version), fresh)
            notes = ()
            if not texts:
                (fresh / leakage.HASHES_FILE).unlink(missing_ok=True)
        (fresh / adapter_parts.CARD).write_text(store.card(version, merged=merged), encoding="utf-8")
    return notes


def _to_bundle(store: StoreReader, version: Version, path: Path, texts: bool) -> None:
    about = {
        "name": version.name,
        "version": version.number,
        "digest": version.digest,
        "created": version.created,
        "manifest": dict(version.manifest),
    }

    def write(files: Mapping[str, Path]) -> None:
        files = {role: file for role, file in files.items() if texts or role != leakage.HASHES_FILE}
        members: dict[str, Any] = {f"part-{place}": file for place, file in enumerate(files.values())}
        about["parts"] = dict(zip(files, members, strict=True))
        bundle.write(path, members, about)

    store.opened(version, write)


def _to_hub(
    store: StoreReader, version: Version, address: str, merged: bool, backbone: str | None, private: bool, texts: bool
) -> tuple[str, tuple[str, ...]]:
    repository, _, revision = address.partition("@")
    with _workshop() as place:
        notes = _to_directory(store, version, place / "adapter", merged, backbone, texts)
        if (place / "adapter" / leakage.HASHES_FILE).exists():
            notes += (_WITH_HASHES,)
        message = f"{version} {version.digest[:19]}"
        url = hub.upload(place / "adapter", repository, revision=revision or None, message=message, private=private)
        return url, notes


@contextmanager
def _workshop() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="afina-") as place:
        yield Path(place)


def _shown(source: str) -> str:
    return source if source.startswith(HUB) else Path(source).name
