"""Predictor: an adapter, opened once, that answers for as many texts as come: on its backbone, or without one.

Order and batching change no answer. Knows no task, no file of texts and no probe.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from afina import device as devices
from afina.allocator import keep_freed
from afina.data.batch import by_length
from afina.data.readers.texts import as_lists
from afina.data.tokenize import Encoded, Template
from afina.errors import InvalidStudy, NotFound
from afina.events import Listener, Progress, ignore
from afina.inference import reading
from afina.inference.reading import Reading
from afina.methods.method import Method
from afina.models import objectives
from afina.models.adapter import Adapter
from afina.models.backbone import Backbone
from afina.models.bag_of_words import BagOfWords, joined
from afina.models.classifier import Classifier
from afina.models.manifest import Manifest
from afina.models.objective import Objective, Predictions
from afina.repr_html import ReprCard


def logits(classifier: Classifier, encoded: Encoded, listen: Listener = ignore) -> np.ndarray:
    """Outputs, float32 [N, width of the head], in the order of `encoded`; computed in the weights' own precision."""
    keep_freed()
    classifier.eval()
    device = next(classifier.parameters()).device
    result: np.ndarray | None = None
    done = 0
    with torch.inference_mode():
        for indices, packed in by_length(encoded, before=classifier.before):
            part = classifier.outputs(packed.to(device))
            if result is None:
                result = np.empty((len(encoded), *part.shape[1:]), dtype=part.dtype)
            result[indices] = part
            done += len(indices)
            listen(Progress("evaluate", done, len(encoded)))
    return np.zeros((0, 0), np.float32) if result is None else result


def predictions(
    classifier: Classifier, encoded: Encoded, targets: np.ndarray | None = None, listen: Listener = ignore
) -> Predictions:
    """The classifier's predictions of texts, with these targets, in the order of `encoded`."""
    return Predictions(logits(classifier, encoded, listen), targets)


@dataclass(frozen=True, eq=False, repr=False)
class Predictor(ReprCard, ABC):
    """What is asked of an opened adapter, whatever it is made of.

    manifest  the adapter's
    where     the adapter's directory, for messages
    """

    manifest: Manifest
    where: str

    def facts(self) -> dict[str, object]:
        """The facts that its repr shows."""
        return {"where": self.where, **self.manifest.summary, "computes in": self.dtype}

    @staticmethod
    def load(adapter: str | Path | Adapter, backbone: str | None = None, dtype: str = "float32") -> Predictor:
        """An adapter, or the one in a directory, on the backbone at that address, by default the one that it names.

        Raises what `Adapter.load`, `backbone_of` and `of` raise.
        """
        opened = adapter if isinstance(adapter, Adapter) else Adapter.load(adapter)
        return Predictor.of(opened, backbone_of(opened, backbone), dtype)

    @staticmethod
    def of(adapter: Adapter, backbone: Backbone | None = None, dtype: str = "float32") -> Predictor:
        """An adapter on a backbone that is at hand; the weights of one Backbone are hashed for its first adapter only.

        dtype  what to compute in: "float32"; "bfloat16"; "auto", bfloat16 where the device computes it natively
        Raises UnknownName for another dtype, WrongBackbone when the backbone's digest is not the manifest's,
        CorruptAdapter when the tensors do not fit, InvalidStudy when its method has no meaning here.
        """
        devices.precision(dtype, devices.choose())
        if adapter.vocabulary is not None:
            return WordsPredictor(adapter.manifest, adapter.where, BagOfWords.of(adapter))
        if backbone is None:
            raise NotFound(
                f"{adapter.where}: it needs a backbone. Give one with `backbone`.",
                code="backbone.unnamed",
                where=adapter.where,
            )
        made = ModelPredictor.on(adapter, backbone)
        made.lower(dtype)
        return made

    @cached_property
    def objective(self) -> Objective:
        """What the adapter was asked of a text."""
        return objectives.make(self.manifest.label_names, self.manifest.objective)

    @property
    @abstractmethod
    def dtype(self) -> str:
        """What it computes in."""

    @abstractmethod
    def lower(self, dtype: str) -> None:
        """Compute in what `dtype` stands for here from now on, see `of`; there is no way back to more digits."""

    def predict(
        self, texts: Iterable[str], pairs: Iterable[str] | None = None, *, where: str = "text", before: int = 0
    ) -> tuple[Predictions, int]:
        """Predictions of raw texts, and how many of the texts were cut.

        texts, pairs  lists, arrays, Series, ...: see `afina.data.readers.texts.as_lists`

        Raises InvalidData for a text that cannot be read or is blank, or where the adapter is known to read pairs and
        there are none, or the other way round; `where` names the texts in that message, and `before` is how
        many came earlier. Raises CorruptAdapter where an output is not a number.
        """
        return self._predict(*as_lists(texts, pairs), where, before)

    @abstractmethod
    def _predict(
        self, texts: Sequence[str], pairs: Sequence[str] | None, where: str, before: int
    ) -> tuple[Predictions, int]:
        """As `predict`, of lists."""

    @property
    def takes_pairs(self) -> bool | None:
        """Whether it was trained on pairs of texts; None where its manifest does not tell."""
        return reading.takes_pairs(self.manifest)

    def outputs(self, texts: Iterable[str], pairs: Iterable[str] | None = None, *, before: int = 0) -> np.ndarray:
        """The numbers that `predict` decodes, [N, width], for what compares adapters by them; `before` as there."""
        return self.predict(texts, pairs, before=before)[0].outputs

    def __call__(
        self, texts: Iterable[str], pairs: Iterable[str] | None = None, *, before: int = 0
    ) -> list[dict[str, Any]]:
        """What a user is told of each text, as JSON values: `Objective.answers`; all arguments as in `predict`."""
        first, second = as_lists(texts, pairs)
        return list(self.objective.answers(self.predict(first, second, before=before)[0])) if len(first) else []


def backbone_of(adapter: Adapter, address: str | None = None) -> Backbone | None:
    """The backbone at that address, by default the one that the adapter names; None where it needs none.

    Raises NotFound where it names none, InvalidStudy where it has no use for one, and what `Backbone.load` raises.
    """
    if adapter.vocabulary is not None:
        if address is not None:
            raise InvalidStudy(
                f"{adapter.where}: the adapter has a model of its own. Leave `backbone` out.",
                code="option.inapplicable",
                where=adapter.where,
                option="backbone",
            )
        return None
    if (address := address or adapter.manifest.backbone) is None:
        raise NotFound(
            f"{adapter.where}: the adapter names no backbone. Give the one it is for with `backbone`.",
            code="backbone.unnamed",
            where=adapter.where,
        )
    return Backbone.load(address)


@dataclass(frozen=True, eq=False, repr=False)
class WordsPredictor(Predictor):
    """An adapter that is a model of its own, of words; it reads every text whole."""

    model: BagOfWords

    @property
    def dtype(self) -> str:
        """Always the same: there is next to nothing to compute."""
        return "float64"

    def lower(self, dtype: str) -> None:
        """Does nothing."""

    def _predict(
        self, texts: Sequence[str], pairs: Sequence[str] | None, where: str, before: int
    ) -> tuple[Predictions, int]:
        """As `Predictor.predict`, float64."""
        reading.check(self.manifest, self.where, texts, pairs, where=where, before=before)
        return Predictions(self.model.outputs(joined(texts, pairs))), 0


@dataclass(frozen=True, eq=False, repr=False)
class ModelPredictor(Predictor):
    """An adapter on its backbone, on the device that `afina.device` chooses.

    method  the adapter's, with the defaults of the backbone's family
    """

    classifier: Classifier
    backbone: Backbone
    method: Method

    @classmethod
    def on(cls, adapter: Adapter, backbone: Backbone) -> Self:
        """In float32. Raises as `Predictor.of` does."""
        manifest = adapter.manifest
        method = reading.method_of(adapter, backbone)
        asked = objectives.make(manifest.label_names, manifest.objective)
        classifier = Classifier.open(backbone, asked.label_names, seed=0, opening=asked.opening)
        reading.check_backbone(adapter, backbone, classifier.body)
        classifier.hold(manifest.precision)
        method.check(classifier.model, adapter.tensors)
        classifier.wrap(method.attach)
        method.restore(classifier.model, adapter.tensors)
        classifier.offset = None if manifest.offset is None else torch.tensor(manifest.offset)
        classifier.to(devices.choose())
        return cls(manifest, adapter.where, classifier, backbone, method)

    @property
    def dtype(self) -> str:
        """That of the backbone's weights; the head is float32."""
        return str(next(self.classifier.body.parameters()).dtype).removeprefix("torch.")

    def lower(self, dtype: str) -> None:
        """Hold the body's weights in it, packed where that is faster."""
        wanted = devices.precision(dtype, next(self.classifier.parameters()).device)
        if wanted != torch.float32 and self.dtype == "float32":
            unlowered = self.method.unlowered(self.classifier.model)
            self.classifier.lower(wanted, packs=self.method.packs, unlowered=unlowered)

    @cached_property
    def reading(self) -> Reading:
        """How it reads texts."""
        return Reading(self.manifest, self.where, self.backbone, self.method)

    @property
    def template(self) -> Template | None:
        """What texts are put in before they are read."""
        return self.reading.template

    @property
    def max_length(self) -> int:
        """Tokens that a text is cut to."""
        return self.reading.max_length

    def encode(
        self, texts: Sequence[str], pairs: Sequence[str] | None = None, *, where: str = "text", before: int = 0
    ) -> Encoded:
        """The texts as the adapter was trained to read them; raises as `predict` does."""
        return self.reading.encode(texts, pairs, where=where, before=before)

    def _predict(
        self, texts: Sequence[str], pairs: Sequence[str] | None, where: str, before: int
    ) -> tuple[Predictions, int]:
        """As `Predictor.predict`, float32."""
        encoded = self.encode(texts, pairs, where=where, before=before)
        return reading.finite(predictions(self.classifier, encoded), self.where), encoded.truncated
