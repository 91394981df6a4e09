"""What may come into a store: looked at before anything of it is read by another library, or kept."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from afina import file_io, hub
from afina.errors import AfinaError, CorruptAdapter, InvalidStudy
from afina.methods import peft_settings
from afina.methods.peft_settings import disagreement
from afina.models.adapter import PEFT_SETTINGS, Adapter
from afina.models.architectures import ARCHITECTURES, head_names, is_output
from afina.models.backbone_spec import WELL_KNOWN, directory_of
from afina.models.manifest import MANIFEST, read_manifest
from afina.store.intake.fit import fits
from afina.store.intake.header import Header
from afina.store.intake.inspection import inspect
from afina.store.intake.limits import Limits

_CONFIG = "config.json"


def admit(directory: Path, limits: Limits, *, links: bool = False) -> Mapping[str, Any] | None:
    """Raise what `inspection.inspect` does, and CorruptAdapter for tensors that cannot be of the backbone.

    That is told by the backbone's configuration, where it is at hand without a network; else when it is opened.
    Returns this configuration; None where it is not at hand, or of a family that afina does not know.
    Raises InvalidStudy for settings of peft's with which no adapter is opened.
    """
    found = inspect(directory, limits, links=links)
    if MANIFEST in found.files:
        manifest = read_manifest(directory)
        if manifest.vocabulary_digest is not None:
            return None
        address, labels = manifest.backbone, len(manifest.label_names)
    else:
        settings = file_io.read_object(directory / PEFT_SETTINGS)
        try:
            peft_settings.check(settings)
        except InvalidStudy as error:
            raise error.reworded(f"{directory / PEFT_SETTINGS}: {error}") from None
        address, labels = settings.get("base_model_name_or_path"), _rows(found.header)
    configuration = at_hand(address) if isinstance(address, str) and address else None
    if configuration is None or configuration.get("model_type") not in ARCHITECTURES:
        return None
    fits(found.header, configuration, labels, str(directory))
    return configuration


def check_agrees(directory: Path, adapter: Adapter) -> None:
    """Raise CorruptAdapter where the settings that peft reads are not those of the adapter's manifest."""
    file = directory / PEFT_SETTINGS
    if os.path.lexists(directory / MANIFEST) and os.path.lexists(file):
        manifest = adapter.manifest.model_dump(mode="json")
        if problem := disagreement(manifest, file_io.read_object(file), adapter.tensors):
            raise CorruptAdapter(
                f"{file}: {problem}. peft would answer otherwise than afina. {file_io.AGAIN}",
                code="adapter.file-malformed",
                path=file,
            )


def at_hand(address: str) -> Mapping[str, Any] | None:
    """The configuration of the backbone at an address, if it is on this machine."""
    try:
        place = directory_of(address)
        if place is not None:
            return file_io.read_object(place / _CONFIG)
        if address in WELL_KNOWN:
            return WELL_KNOWN[address]
        cached = hub.cached(address, _CONFIG)
        return file_io.read_object(cached) if cached is not None else None
    except AfinaError:
        return None  # whoever opens it says what is wrong


def _rows(header: Header) -> int:
    for name, entry in header.tensors.items():
        if is_output(name) and name.endswith("weight") and len(entry.shape) == 2:
            return entry.shape[0]
    raise CorruptAdapter(
        f"the adapter has no classification head ({', '.join(head_names())}). "
        'Save it with task_type="SEQ_CLS", which keeps the head.',
        code="adapter.head-missing",
    )
