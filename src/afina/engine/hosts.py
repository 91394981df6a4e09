"""Hosts: the shared frozen models of one backbone, one for each precision of adapters, which stay in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Any

import torch

from afina import device as devices
from afina.engine import problems
from afina.engine.residents import Residents
from afina.models.backbone import Backbone
from afina.models.backbone_spec import FLOAT, PRECISIONS
from afina.models.classifier import Classifier
from afina.models.language_model import open_without_weights
from afina.models.mixed_batch import MixedBatchModel
from afina.models.objective import SINGLE_LABEL
from afina.predicting.predictor import int8_factors


class Hosts:
    """The open frozen models of a backbone by precision. Thread-safe.

    Attributes:
        computing: The lock that is held during each forward pass of a frozen model.
        attaching: The lock that is held while a model is built, because transformers and peft then change global state.
        copy_notes: `Backbone.copy_note`, by precision.
    """

    def __init__(self, backbone: Backbone, dtype: str, residents: Residents) -> None:
        self.backbone, self.computes = backbone, devices.compute_type(dtype, devices.choose())
        self.computing, self.attaching = Lock(), Lock()
        self._residents = residents
        self._models: dict[str, MixedBatchModel] = {}
        self._sizes: dict[str, int] = {}
        self.copy_notes: dict[str, str] = {}

    def all(self) -> dict[str, MixedBatchModel]:
        """Return the open frozen models by precision, in the order in which they were opened."""
        return self._models.copy()

    @property
    def sizes(self) -> dict[str, int]:
        """The bytes that each open frozen model takes, without the language model's output embedding, by precision."""
        return self._sizes.copy()

    def of(self, precision: str) -> MixedBatchModel:
        """Return the frozen model of a precision, which the first call opens.

        Raises InvalidStudy beyond the memory limit.
        """
        with self.attaching:
            if precision not in self._models:
                self._check_room(precision)
                model = devices.in_thread_that_ends(lambda: self._open(precision))
                size = model.classifier.size
                if self._models:
                    self._residents.hold(size)
                self.copy_notes[precision] = self.backbone.copy_note
                self._models[precision], self._sizes[precision] = model, size
            return self._models[precision]

    def _open(self, precision: str) -> MixedBatchModel:
        classifier = Classifier.open(self.backbone, ("0", "1"), seed=0, precision=precision)
        self.backbone.digest_of(classifier.body)  # hashed before the weights change
        classifier.to(devices.choose())
        host = MixedBatchModel(classifier, self.computing)
        if self.computes.name == devices.INT8:
            classifier.use_int8(int8_factors(self.backbone, precision, classifier))
        if self.computes.dtype != torch.float32:
            classifier.lower(self.computes.dtype)
        return host

    def _check_room(self, precision: str) -> None:
        """Raise InvalidStudy if a further frozen model needs more memory than the memory limit leaves."""
        room = self._residents.room()
        if not self._models or room is None:
            return
        shape = open_without_weights(self.backbone.address, 2, SINGLE_LABEL)
        shape.hold(precision)
        if shape.size > room:
            raise problems.NO_ROOM_FOR_HOST(
                backbone=self.backbone.address,
                precision=precision,
                bytes=shape.size,
                limit=max(room, 0),
                _there=[f"{size:,} bytes in {name}" for name, size in self.sizes.items()],
                _open=" or ".join(self.sizes),
            )


def precisions_of(manifests: Sequence[Mapping[str, Any]], backbone: Backbone) -> Sequence[str]:
    """Return the precisions in which adapters of a backbone were trained, in the order of `PRECISIONS`.

    If no manifest has the backbone's address (it was moved), adapters with the same family and tokenizer count: the
    backbone's digest is not known before its weights are read.
    """
    mine = [manifest for manifest in manifests if manifest.get("backbone") == backbone.address]
    alike = (backbone.family, backbone.tokenizer_digest)
    chosen = mine or [
        manifest for manifest in manifests if (manifest.get("family"), manifest.get("tokenizer_digest")) == alike
    ]
    present = {manifest.get("precision", FLOAT) for manifest in chosen}
    return [precision for precision in PRECISIONS if precision in present]
