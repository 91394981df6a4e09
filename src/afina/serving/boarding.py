"""Boarding: what makes a resident of an adapter. Asks its method how it takes part; knows none by name."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Any

import torch

from afina import digest
from afina.errors import CorruptAdapter
from afina.inference.predictor import ModelPredictor, Predictor
from afina.inference.reading import Reading, check_backbone, method_of
from afina.methods.method import Method, check_names
from afina.models.adapter import Adapter
from afina.models.architectures import is_head
from afina.models.backbone import Backbone
from afina.models.mixed_batch import MixedBatchModel
from afina.models.pretrained import meta_from_config
from afina.serving.resident import Apart, Resident, Riding

if TYPE_CHECKING:
    from torch import Tensor

_KEPT = 64
"""Skeletons, those used last."""


@dataclass(frozen=True, eq=False)
class Skeleton:
    """A model without values that a method is attached to, and what such a model saves, by name."""

    model: Any
    saved: Mapping[str, Tensor]


class Boarding:
    """Takes adapters on board of a host; may be called by many threads.

    dtype  as in `Predictor.of`, for those that need a model of their own
    """

    def __init__(self, host: MixedBatchModel, backbone: Backbone, dtype: str) -> None:
        self.host, self.backbone, self.dtype = host, backbone, dtype
        self._skeletons: OrderedDict[str, Skeleton] = OrderedDict()
        self._attaching = Lock()

    def board(self, adapter: Adapter) -> Resident:
        """The adapter, ready to answer. Raises what `Predictor.of` raises."""
        if (wrong := adapter.mismatch()) is not None:
            raise CorruptAdapter(
                f"{adapter.where}: its {wrong.what} have digest {wrong.found[:19]}, its manifest says "
                f"{wrong.stated[:19]}. Read it again.",
                code="adapter.changed",
                where=adapter.where,
                what=wrong.what,
            )
        riding = None if adapter.vocabulary is not None else self._riding(adapter)
        return riding or self._apart(adapter)

    def _riding(self, adapter: Adapter) -> Riding | None:
        """None where it cannot share the model, or was trained on one that is held in another precision."""
        manifest, tensors = adapter.manifest, adapter.tensors
        if self.backbone.architecture.logits is not None:
            return None  # the engine computes heads of one linear layer
        if manifest.precision != self.host.classifier.precision:
            return None
        method = method_of(adapter, self.backbone)
        check_backbone(adapter, self.backbone, self.host.classifier.body)
        skeleton = self._skeleton(adapter, method)
        check_names(skeleton.saved, tensors)
        heads = [tensor for name, tensor in tensors.items() if is_head(name)]
        with torch.no_grad():
            rider = method.batched(skeleton.model, tensors, self.host.model)
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
        return Riding(adapter.digest, manifest, adapter.where, size, rider, head, offset, reading)

    def _skeleton(self, adapter: Adapter, method: Method) -> Skeleton:
        """Made for the first adapter of a method with those settings and so many labels."""
        manifest = adapter.manifest
        width = len(manifest.label_names)
        key = digest.canonical_json([manifest.method, manifest.hyperparameters, width])
        with self._attaching:
            if key not in self._skeletons:
                config = type(self.backbone.config).from_dict(self.backbone.config.to_dict())
                empty = meta_from_config(config, width)
                method.check(empty, adapter.tensors)
                model = method.attach(empty)
                self._skeletons[key] = Skeleton(model, method.state(model))
                if len(self._skeletons) > _KEPT:
                    self._skeletons.popitem(last=False)
            self._skeletons.move_to_end(key)
            return self._skeletons[key]

    def _apart(self, adapter: Adapter) -> Apart:
        with self._attaching:
            predictor = Predictor.of(adapter, self.backbone, self.dtype)
        if isinstance(predictor, ModelPredictor):
            size = predictor.classifier.size
        else:
            words = sum(len(word.encode()) for word in adapter.vocabulary or ())
            size = words + sum(tensor.numel() * tensor.element_size() for tensor in adapter.tensors.values())
        return Apart(adapter.digest, adapter.manifest, adapter.where, size, predictor)
