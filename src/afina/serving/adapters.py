"""From an address to an adapter in memory: what the address means now, by digest, and how the adapter takes part.

An adapter whose method can share the frozen model is loaded as a SharedResident, any other with a model of its own.
Asks a method how it takes part; knows none by name, and keeps no adapter.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from afina import digest, meter
from afina.errors import CorruptAdapter, InvalidStudy
from afina.inference.predictor import ModelPredictor, Predictor
from afina.inference.reading import Reading, check_backbone, method_of
from afina.methods.method import Method, check_names
from afina.models.adapter import Adapter
from afina.models.architectures import is_head
from afina.models.backbone import Backbone
from afina.models.mixed_batch import MixedBatchModel
from afina.models.pretrained import meta_from_config
from afina.serving.residents import Resident, SeparateResident, SharedResident
from afina.store.reader import StoreReader
from afina.store.versions import PREFIX, Version

if TYPE_CHECKING:
    from torch import Tensor


Address = str | Path | Adapter | Version
"""A directory, `store:client/task@which`, or what was opened or found already."""


class FoundAdapter(NamedTuple):
    """What an address means: the adapter's digest, how to read it, and which version it is, if any."""

    digest: str
    read: Callable[[], Adapter]
    version: str | None = None


_Signature = tuple[tuple[str, int, int, int], ...]


class AdapterSources:
    """May be asked by many threads.

    store  where versions are; None: nowhere
    fresh  seconds for which what a reference means is not asked again
    """

    def __init__(self, store: StoreReader | None, fresh: float) -> None:
        self.store, self.fresh = store, fresh
        self._versions: dict[str, tuple[float, Version]] = {}
        self._directories: dict[Path, tuple[_Signature, str]] = {}

    def find(self, address: Address, *, anew: bool = False) -> FoundAdapter:
        """What it means; anew: look a reference up, however fresh it is.

        Raises NotFound for what is not there, InvalidStudy for a reference without a store, InvalidName.
        """
        if isinstance(address, Adapter):
            return FoundAdapter(
                address.digest, lambda: replace(address)
            )  # hashed: the caller may have changed a tensor
        if isinstance(address, Version):
            return self._of_version(address)
        if isinstance(address, str) and address.startswith(PREFIX):
            return self._of_version(self._version(address, anew))
        return self._of_directory(Path(address))

    def _version(self, reference: str, anew: bool) -> Version:
        now = meter.now()
        found = self._versions.get(reference)
        if found is not None and not anew and now - found[0] < self.fresh:
            return found[1]
        self._versions.pop(reference, None)  # what is not there any more is not there for others either
        version = self._demanded().show(reference)
        if len(self._versions) >= _MOST:
            self._versions.clear()
        self._versions[reference] = now, version
        return version

    def _of_version(self, version: Version) -> FoundAdapter:
        return FoundAdapter(version.digest, partial(self._demanded().adapter, version), str(version))

    def _demanded(self) -> StoreReader:
        if self.store is None:
            raise InvalidStudy(
                "the engine has no `store` to find a version in. Give it one, or name a directory.",
                code="option.missing",
            )
        return self.store

    def _of_directory(self, path: Path) -> FoundAdapter:
        signature = _signature(path)
        known = self._directories.get(path)
        if known is not None and signature and known[0] == signature:
            return FoundAdapter(known[1], partial(Adapter.load, path))
        adapter = Adapter.load(path)
        if len(self._directories) >= _MOST:
            self._directories.clear()
        if _signature(path) == signature:
            self._directories[path] = signature, adapter.digest
        return FoundAdapter(adapter.digest, lambda: adapter)


_MOST = 65_536
"""References, and directories, that are remembered."""


def _signature(path: Path) -> _Signature:
    """Of a directory's files: what differs once one of them was written or exchanged. Empty where there is none."""
    try:
        files = sorted(path.iterdir())
        stats = [(file.name, file.stat()) for file in files]
    except OSError:
        return ()
    return tuple((name, stat.st_mtime_ns, stat.st_ino, stat.st_size) for name, stat in stats)


_KEPT = 64
"""Skeletons, those used last."""


@dataclass(frozen=True, eq=False)
class EmptyModel:
    """A model without values that a method is attached to, and what such a model saves, by name."""

    model: Any
    saved: Mapping[str, Tensor]


class AdapterLoader:
    """Loads adapters for a host; may be called by many threads.

    dtype  as in `Predictor.of`, for those that need a model of their own
    """

    def __init__(self, host: MixedBatchModel, backbone: Backbone, dtype: str) -> None:
        self.host, self.backbone, self.dtype = host, backbone, dtype
        self._empty_models: OrderedDict[str, EmptyModel] = OrderedDict()
        self._attaching = Lock()

    def load(self, adapter: Adapter) -> Resident:
        """The adapter, ready to answer. Raises what `Predictor.of` raises."""
        if (wrong := adapter.mismatch()) is not None:
            raise CorruptAdapter(
                f"{adapter.where}: its {wrong.what} have digest {wrong.found[:19]}, its manifest says "
                f"{wrong.stated[:19]}. Read it again.",
                code="adapter.changed",
                where=adapter.where,
                what=wrong.what,
            )
        shared = None if adapter.vocabulary is not None else self._shared(adapter)
        return shared or self._separate(adapter)

    def _shared(self, adapter: Adapter) -> SharedResident | None:
        """None where it cannot share the model, or was trained on one that is held in another precision."""
        manifest, tensors = adapter.manifest, adapter.tensors
        if self.backbone.architecture.logits is not None:
            return None  # the engine computes heads of one linear layer
        if manifest.precision != self.host.classifier.precision:
            return None
        method = method_of(adapter, self.backbone)
        check_backbone(adapter, self.backbone, self.host.classifier.body)
        empty_model = self._empty_model(adapter, method)
        check_names(empty_model.saved, tensors)
        heads = [tensor for name, tensor in tensors.items() if is_head(name)]
        with torch.no_grad():
            rider = method.batched(empty_model.model, tensors, self.host.model)
            if (
                rider is None
                or len(heads) != 1
                or rider.tensor_names != {name for name in tensors if not is_head(name)}
            ):
                return None
            rider = self.host.admit(rider)
        device = self.host.device
        head = heads[0].to(device, torch.float32)
        offset = None if manifest.offset is None else torch.tensor(manifest.offset, device=device)
        reading = Reading(manifest, adapter.where, self.backbone, method)
        size = rider.size + head.numel() * head.element_size()
        return SharedResident(adapter.digest, manifest, adapter.where, size, rider, head, offset, reading)

    def _empty_model(self, adapter: Adapter, method: Method) -> EmptyModel:
        """Made for the first adapter of a method with those settings and so many labels."""
        manifest = adapter.manifest
        width = len(manifest.label_names)
        key = digest.canonical_json([manifest.method, manifest.hyperparameters, width])
        with self._attaching:
            if key not in self._empty_models:
                config = type(self.backbone.config).from_dict(self.backbone.config.to_dict())
                empty = meta_from_config(config, width)
                method.check(empty, adapter.tensors)
                model = method.attach(empty)
                self._empty_models[key] = EmptyModel(model, method.state(model))
                if len(self._empty_models) > _KEPT:
                    self._empty_models.popitem(last=False)
            self._empty_models.move_to_end(key)
            return self._empty_models[key]

    def _separate(self, adapter: Adapter) -> SeparateResident:
        with self._attaching:
            predictor = Predictor.of(adapter, self.backbone, self.dtype)
        if isinstance(predictor, ModelPredictor):
            size = predictor.classifier.size
        else:
            words = sum(len(word.encode()) for word in adapter.vocabulary or ())
            size = words + sum(tensor.numel() * tensor.element_size() for tensor in adapter.tensors.values())
        return SeparateResident(adapter.digest, adapter.manifest, adapter.where, size, predictor)
