"""Predictor: a backbone and an adapter, opened once, that answer for as many texts as come.

Order and batching change no answer. Knows no task, no file of texts and no probe.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from afina import device as devices
from afina import methods
from afina.allocator import keep_freed
from afina.data.loader import by_length
from afina.data.template import Template
from afina.data.tokenize import Encoded, encode
from afina.errors import WrongBackbone
from afina.events import Listener, Progress, ignore
from afina.methods.method import Method
from afina.models.adapter import Adapter, Manifest
from afina.models.backbone import Backbone
from afina.models.classifier import Classifier
from afina.models.objective import Classes, Objective


def logits(classifier: Classifier, encoded: Encoded, listen: Listener = ignore) -> np.ndarray:
    """Outputs, float32 [N, width of the head], in the order of `encoded`; computed in the weights' own precision."""
    keep_freed()
    classifier.eval()
    device = next(classifier.parameters()).device
    result: np.ndarray | None = None
    done = 0
    with torch.inference_mode():
        for indices, packed in by_length(encoded):
            part = classifier(packed.to(device)).cpu().numpy()
            if result is None:
                result = np.empty((len(encoded), part.shape[1]), dtype=np.float32)
            result[indices] = part
            done += len(indices)
            listen(Progress("evaluate", done, len(encoded)))
    return np.zeros((0, 0), np.float32) if result is None else result


@dataclass(frozen=True, eq=False)
class Predictor:
    """An adapter on its backbone, in float32, on the device that `afina.device` chooses.

    method    the adapter's, with the defaults of the backbone's family
    manifest  the adapter's
    where     the adapter's directory, for messages
    """

    classifier: Classifier
    backbone: Backbone
    method: Method
    manifest: Manifest
    where: str = "adapter"

    @classmethod
    def load(cls, adapter: str | Path, backbone: str | None = None) -> Self:
        """The adapter in a directory, on the backbone at that address, by default the one that it names.

        Raises what `Adapter.load`, `Backbone.load` and `of` raise.
        """
        opened = Adapter.load(Path(adapter))
        return cls.of(opened, Backbone.load(backbone or opened.manifest.backbone))

    @classmethod
    def of(cls, adapter: Adapter, backbone: Backbone) -> Self:
        """An adapter on a backbone that is at hand; the weights of one Backbone are hashed for its first adapter only.

        Raises WrongBackbone when the backbone's digest is not the manifest's, CorruptAdapter when the tensors do not
        fit, InvalidStudy when its method has no meaning here.
        """
        manifest = adapter.manifest
        classifier = Classifier.open(backbone, manifest.label_names, seed=0)
        if manifest.backbone_digest is not None:
            _check(adapter, backbone, classifier)
        method = methods.make(manifest.method, manifest.hyperparameters, adapter.where).for_family(backbone.family)
        classifier.wrap(method.attach)
        method.restore(classifier.model, adapter.tensors)
        classifier.offset = None if manifest.offset is None else torch.tensor(manifest.offset)
        classifier.to(devices.choose())
        return cls(classifier, backbone, method, manifest, adapter.where)

    @cached_property
    def objective(self) -> Objective:
        """What the adapter was asked of a text."""
        return Classes(self.manifest.label_names)

    @cached_property
    def template(self) -> Template | None:
        """What texts are put in before they are read."""
        return Template(self.manifest.template) if self.manifest.template is not None else None

    @property
    def max_length(self) -> int:
        """Tokens that a text is cut to."""
        return self.manifest.max_length or self.backbone.longest

    def encode(
        self, texts: Sequence[str], pairs: Sequence[str] | None = None, *, where: str = "text", before: int = 0
    ) -> Encoded:
        """The texts as the adapter was trained to read them.

        Raises InvalidData for a text that gives no token; `where` names the texts in that message, and `before` is how
        many came earlier.
        """
        tokenizer, length = self.backbone.tokenizer, self.max_length
        return encode(tokenizer, texts, pairs, max_length=length, template=self.template, where=where, before=before)

    def outputs(self, texts: Sequence[str], pairs: Sequence[str] | None = None, *, before: int = 0) -> np.ndarray:
        """Outputs of raw texts, float32 [N, width]; `before` as in `encode`."""
        return logits(self.classifier, self.encode(texts, pairs, before=before))

    def __call__(
        self, texts: Sequence[str], pairs: Sequence[str] | None = None, *, before: int = 0
    ) -> list[dict[str, Any]]:
        """What a user is told of each text, as JSON values: `Objective.answers`; `before` as in `encode`."""
        return list(self.objective.answers(self.outputs(texts, pairs, before=before))) if texts else []


def _check(adapter: Adapter, backbone: Backbone, classifier: Classifier) -> None:
    manifest, found = adapter.manifest, backbone.digest_of(classifier.body)
    if found == manifest.backbone_digest:
        return
    raise WrongBackbone(
        f"{adapter.where}: made for backbone {manifest.backbone} with digest {str(manifest.backbone_digest)[:19]}, "
        f"but {backbone.address} has {found[:19]} ({_difference(backbone, classifier, manifest)}). "
        "Give the right one with `backbone`."
    )


def _difference(backbone: Backbone, classifier: Classifier, manifest: Manifest) -> str:
    if backbone.tokenizer_digest == manifest.tokenizer_digest:
        return "the weights differ"
    with_its_tokenizer = backbone.digest_of(classifier.body, manifest.tokenizer_digest)
    return "the tokenizer differs" if with_its_tokenizer == manifest.backbone_digest else "weights and tokenizer differ"
