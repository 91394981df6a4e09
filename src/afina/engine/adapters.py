"""Classes that find adapters, and load them: on a shared frozen model, or with a model of their own."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.nn.functional import linear

from afina import digest, meter
from afina.engine import problems
from afina.engine.hosts import Hosts
from afina.engine.residents import Resident, SeparateResident, SharedResident
from afina.methods.method import Method, plain_name
from afina.models import objectives
from afina.models.adapter import Adapter
from afina.models.architectures import head_entry_of, is_after_pooling, is_head
from afina.models.classifier import FamilyHead
from afina.models.kernels.layer_changes import BatchedAdapter
from afina.models.mixed_batch import MixedBatchModel
from afina.models.objective import Opening
from afina.models.pretrained import meta_from_config
from afina.predicting.backbone_digest import check_backbone
from afina.predicting.predictor import ModelPredictor, Predictor
from afina.predicting.reading import Reading, method_of
from afina.store.reader import StoreReader
from afina.store.versions import PREFIX, Version

if TYPE_CHECKING:
    from torch import Tensor


Address = str | Path | Adapter | Version
"""The address of an adapter: a directory, `store:client/task@version`, an open Adapter, or a Version of a store."""


class FoundAdapter(NamedTuple):
    """An adapter that was found at an address."""

    digest: str
    read: Callable[[], Adapter]
    version: str | None = None  # such as `client/task@3`; None: the adapter is not from a store


_Signature = tuple[tuple[str, int, int, int], ...]


class AdapterSources:
    """Finds the adapters at addresses. Thread-safe. `fresh`: seconds for which the version of a reference is cached."""

    def __init__(self, store: StoreReader | None, fresh: float) -> None:
        self.store, self.fresh = store, fresh
        self._versions: dict[str, tuple[float, Version]] = {}
        self._directories: dict[Path, tuple[_Signature, str]] = {}

    def find(self, address: Address, *, anew: bool = False) -> FoundAdapter:
        """Find the adapter at an address; `anew` looks a reference up in the store even if its version is cached."""
        if isinstance(address, Adapter):
            return FoundAdapter(
                address.digest, lambda: replace(address)
            )  # a new object, whose digest is checked: the caller may have changed a tensor
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
        self._versions.pop(reference, None)  # if the look-up below fails, no thread may use the old version
        version = self._demanded().show(reference)
        if len(self._versions) >= _MOST:
            self._versions.clear()
        self._versions[reference] = now, version
        return version

    def _of_version(self, version: Version) -> FoundAdapter:
        return FoundAdapter(version.digest, partial(self._demanded().adapter, version), str(version))

    def _demanded(self) -> StoreReader:
        if self.store is None:
            raise problems.NO_STORE()
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


_MOST = 65_536  # maximum number of cached references, and of cached directories


def _signature(path: Path) -> _Signature:
    """Return names, times and sizes of a directory's files, which show a changed file; empty if it cannot be read."""
    try:
        files = sorted(path.iterdir())
        stats = [(file.name, file.stat()) for file in files]
    except OSError:
        return ()
    return tuple((name, stat.st_mtime_ns, stat.st_ino, stat.st_size) for name, stat in stats)


_KEPT = 64  # maximum number of cached `EmptyModel`s; if there are more, the least recently used is dropped


@dataclass(frozen=True, eq=False)
class EmptyModel:
    """A model on torch's meta device, whose tensors have shapes but no values, with a method attached.

    Attributes:
        saved: The meta tensors that the method would save, by name.
        layers: The layers after the pooling; None if there is only one linear layer, or if the model generates text.
        head_names: The names of the weights of the layers after the pooling. Empty if the model generates text.
        output: The path of the layer that returns the outputs.
    """

    model: Any
    saved: Mapping[str, Tensor]
    layers: FamilyHead | None
    head_names: frozenset[str]
    output: str

    def head_of(self, weights: Mapping[str, Tensor], *, pooled: bool) -> Callable[[Tensor], Tensor]:
        """Return what computes outputs from pooled features. `pooled`: the adapter has its own pooling."""
        if self.layers is not None and not pooled:
            return partial(self.layers.logits, weights)
        return partial(linear, weight=weights[f"{self.output}.weight"], bias=weights.get(f"{self.output}.bias"))


class AdapterLoader:
    """Loads adapters. Thread-safe. `opened` is called with the bytes of an output embedding that was newly opened."""

    def __init__(self, hosts: Hosts, dtype: str, opened: Callable[[int], object]) -> None:
        self.hosts, self.backbone, self.dtype = hosts, hosts.backbone, dtype
        self._opened = opened
        self._empty_models: OrderedDict[str, EmptyModel] = OrderedDict()

    def load(self, adapter: Adapter) -> Resident:
        """Return an adapter loaded into memory, ready to answer. Raises the errors of `Predictor.of`."""
        if (wrong := adapter.mismatch()) is not None:
            raise problems.ADAPTER_CHANGED(where=adapter.where, what=wrong.what, found=wrong.found, stated=wrong.stated)
        shared = None if adapter.vocabulary is not None else self._shared(adapter)
        return shared or self._separate(adapter)

    def _shared(self, adapter: Adapter) -> SharedResident | None:
        """Return the adapter as a SharedResident, or None if the adapter cannot use a shared frozen model."""
        manifest, there = adapter.manifest, self.hosts.all()
        method = method_of(adapter, self.backbone)
        opening = objectives.make(manifest.label_names, manifest.objective).opening
        other = None if not there or manifest.precision in there else next(iter(there.values()))
        # A further model takes much memory, so it is opened only for an adapter that can share it.
        if other is not None and self._changes(adapter, method, opening, other)[1] is None:
            return None
        host = self.hosts.of(manifest.precision)
        empty_model, batched = self._changes(adapter, method, opening, host)
        generates = opening.auto_class == "language_model"
        with torch.no_grad():
            weights = {} if generates else _above(host, adapter.tensors, empty_model.head_names)
            if batched is None or weights.keys() != empty_model.head_names:
                return None
            batched = host.admit(batched)
        if generates:
            self._opened(host.open_output(self.backbone))
        offset = None if manifest.offset is None else torch.tensor(manifest.offset, device=host.device)
        reading = Reading(manifest, adapter.where, self.backbone, method)
        own = [weight for name, weight in weights.items() if is_head(name)]
        size = batched.size + sum(weight.numel() * weight.element_size() for weight in own)
        head = None if generates else empty_model.head_of(weights, pooled=batched.pooled is not None)
        return SharedResident(adapter.digest, manifest, adapter.where, size, reading, host, batched, head, offset)

    def _changes(
        self, adapter: Adapter, method: Method, opening: Opening, host: MixedBatchModel
    ) -> tuple[EmptyModel, BatchedAdapter | None]:
        """Return the EmptyModel for an adapter, and its changes of a shared model.

        None: it needs a model of its own.
        """
        check_backbone(adapter, self.backbone, host.classifier.body)
        empty_model = self._empty_model(adapter, method, opening)
        method.check_saved(empty_model.model, empty_model.saved, adapter.tensors)
        with torch.no_grad():
            made = method.batched(empty_model.model, adapter.tensors, host.model)
        names = {name for name in adapter.tensors if not is_head(name)}
        return empty_model, None if made is None or made.tensor_names != names else made

    def _empty_model(self, adapter: Adapter, method: Method, opening: Opening) -> EmptyModel:
        """Return the cached EmptyModel for an adapter's method, hyperparameters, task and number of labels."""
        manifest = adapter.manifest
        width = objectives.make(manifest.label_names, manifest.objective).width
        key = digest.canonical_json([manifest.method, manifest.hyperparameters, width, opening.auto_class])
        with self.hosts.attaching:
            if key not in self._empty_models:
                config = type(self.backbone.config).from_dict(self.backbone.config.to_dict())
                empty = meta_from_config(config, width, opening)
                method.check(empty, adapter.tensors)
                names = frozenset(name for name, _ in empty.named_parameters() if is_after_pooling(name))
                head = head_entry_of(empty)
                layers = None if head.logits is None else FamilyHead(meta_from_config(config, width, opening))
                model = method.attach(empty)
                names = names if opening.has_head else frozenset()
                self._empty_models[key] = EmptyModel(model, method.state(model), layers, names, head.output)
                if len(self._empty_models) > _KEPT:
                    self._empty_models.popitem(last=False)
            self._empty_models.move_to_end(key)
            return self._empty_models[key]

    def _separate(self, adapter: Adapter) -> SeparateResident:
        with self.hosts.attaching:
            predictor = Predictor.of(adapter, self.backbone, self.dtype)
        reading = None
        if isinstance(predictor, ModelPredictor):
            size, reading = predictor.classifier.size, predictor.reading
        else:
            words = sum(len(word.encode()) for word in adapter.vocabulary or ())
            size = words + sum(tensor.numel() * tensor.element_size() for tensor in adapter.tensors.values())
        return SeparateResident(adapter.digest, adapter.manifest, adapter.where, size, reading, predictor)


def _above(host: MixedBatchModel, tensors: Mapping[str, Tensor], names: Collection[str]) -> dict[str, Tensor]:
    """Return the float32 weights `names` of the layers after the pooling, from the adapter or else the frozen model."""
    frozen = host.classifier.model.named_parameters()
    weights = {name: one.detach() for name, one in frozen if name in names and not is_head(name)}
    own = ((plain_name(name), tensor) for name, tensor in tensors.items())
    return weights | {name: one.to(host.device, torch.float32) for name, one in own if is_after_pooling(name)}
