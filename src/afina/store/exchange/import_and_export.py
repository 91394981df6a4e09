"""Import and export adapters as directories, bundles, repositories on the Hub, and merged models.

Every import calls `AdapterStore.publish`, which inspects all files.
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
from afina.data import text_hashes
from afina.models.adapter import PEFT_SETTINGS
from afina.models.manifest import MANIFEST
from afina.sentence import Sentence
from afina.store import adapter_parts, problems
from afina.store.exchange import bundle
from afina.store.intake import IntakeLimits, inspection
from afina.store.model_card import base_for_peft
from afina.store.reader import StoreReader
from afina.store.versions import PublishOutcome, Version

HUB = "hub:"
BUNDLE = ".tar"
_PRETRAINED = "config.json"

_WITH_HASHES = (
    f"{text_hashes.HASHES_FILE} was uploaded too. With these hashes, readers can test whether a text was trained on. "
    "--no-texts (`texts=False`) leaves the file out."
)


def bring_in(
    source: str,
    publish: Callable[..., PublishOutcome],
    limits: IntakeLimits,
    *,
    message: str,
    backbone: str | None,
    precision: str | None,
) -> PublishOutcome:
    """Import the adapter at `source` into a store: publish it with `AdapterStore.publish`.

    Args:
        source: a directory of an adapter of afina or peft, or of a classifier saved with `save_pretrained`; a bundle,
            FILE.tar; or hub:owner/name[@revision].
        publish: the method `AdapterStore.publish` with the adapter's name filled in.
        backbone: for a classifier of transformers, the backbone that was fine-tuned. Adapters of afina and peft name
            their backbone, so `backbone` must be None for them.
        precision: for an adapter of peft, how the backbone's weights were stored in training, as in `Adapter.load`.
    """
    keep = partial(publish, message=message, source=_shown(source))
    if source.startswith(HUB):
        directory = hub.download(source.removeprefix(HUB))
        return _directory(directory, keep, limits, backbone, precision, links=True)
    path = Path(source)
    if path.is_dir():
        return _directory(path, keep, limits, backbone, precision)
    if not os.path.lexists(path):
        raise problems.SOURCE_MISSING(path=source, reason="there is no such file or directory")
    for option, value in (("backbone", backbone), ("precision", precision)):
        if value is not None:
            raise problems.OPTION_INAPPLICABLE(
                _where=source, reason=f"a bundle names its {option} itself", option=option, path=source
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
    """Return the files of an adapter's parts in the extracted bundle `place`, by role."""
    parts, there = about.get("parts"), {file.name for file in place.iterdir()}
    if not isinstance(parts, dict) or not isinstance(about.get("manifest"), dict):
        raise problems.BUNDLE_INCOMPLETE(path=path, what="adapter")
    for role, file in parts.items():
        if not isinstance(file, str) or file not in there or not adapter_parts.is_role(role):
            raise problems.BUNDLE_INCOMPLETE(
                path=path, what=f"file of the part {str(role)[:80]!r}", part=str(role)[:80]
            )
    return {role: place / file for role, file in parts.items()}


def _directory(
    path: Path,
    keep: Callable[..., PublishOutcome],
    limits: IntakeLimits,
    backbone: str | None,
    precision: str | None,
    *,
    links: bool = False,
) -> PublishOutcome:
    if os.path.lexists(path / MANIFEST) or os.path.lexists(path / PEFT_SETTINGS):
        if backbone is not None:
            raise problems.OPTION_INAPPLICABLE(
                _where=path, reason="the adapter names its backbone", option="backbone", path=path
            )
        return keep(path, links=links, precision=precision)
    if not os.path.lexists(path / _PRETRAINED):
        raise problems.NOTHING_TO_PUBLISH(manifest=MANIFEST, settings=PEFT_SETTINGS, config=_PRETRAINED, path=path)
    if backbone is None:
        raise problems.BACKBONE_UNNAMED(path=path)
    if precision is not None:
        reason = "this is a transformers model, whose own weights are published"
        raise problems.OPTION_INAPPLICABLE(_where=path, reason=reason, option="precision", path=path)
    from afina.store.exchange import saved_classifiers

    inspection.inspect_model(path, limits, links=links)
    with _workshop() as place:
        saved_classifiers.convert(path, backbone, place / "adapter")
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
    """Export a version to a directory, a bundle or the Hub.

    Args:
        target: a directory; FILE.tar for a bundle; or hub:owner/name[@branch].
        merged: whether to merge the adapter into its backbone, as a model that transformers opens without peft.
        backbone: the address of the backbone. Default: the address in the manifest.
        private: whether a new repository on the Hub is private.
        texts: whether to export the hashes of the training texts, if the version has hashes.

    Returns:
        The path or URL of the exported files, and notes for users of these files.
    """
    version = store.show(reference)
    if backbone is not None and not merged:
        reason = Sentence.of("`backbone` is only used with `merged`")
        raise problems.OPTION_INAPPLICABLE(_where=version, reason=reason, option="backbone", version=str(version))
    if target.startswith(HUB):
        return _to_hub(store, version, target.removeprefix(HUB), merged, backbone, private, texts)
    if target.endswith(BUNDLE):
        if merged:
            raise problems.OPTION_INAPPLICABLE(
                _where=target, reason="a bundle cannot have a merged model", option="merged", path=target
            )
        if os.path.lexists(target):
            raise problems.OUT_EXISTS(path=target)
        _to_bundle(store, version, Path(target), texts)
        return target, ()
    return target, _to_directory(store, version, Path(target), merged, backbone, texts)


def _to_directory(
    store: StoreReader, version: Version, path: Path, merged: bool, backbone: str | None, texts: bool
) -> tuple[str, ...]:
    if os.path.lexists(path):
        raise problems.OUT_EXISTS(path=path)
    with file_io.replacing(path) as fresh:
        if merged:
            from afina.predicting.predictor import Predictor
            from afina.store.exchange.merging import merge

            notes = merge(Predictor.load(store.adapter(str(version)), backbone), fresh)
        else:
            store.restore(str(version), fresh)
            base = base_for_peft(version.manifest)
            notes = () if base is None else (base,)
            if not texts:
                (fresh / text_hashes.HASHES_FILE).unlink(missing_ok=True)
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
        files = {role: file for role, file in files.items() if texts or role != text_hashes.HASHES_FILE}
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
        if (place / "adapter" / text_hashes.HASHES_FILE).exists():
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
