"""`Predictor`: an opened adapter that predicts any number of texts, on its backbone or without a backbone.

The order of texts and their batches do not change a predictor's answers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import torch
from torch import Tensor

from afina import device as devices
from afina.allocator import keep_freed
from afina.data.answer_tokens import References, encode_references
from afina.data.batch import IGNORED, by_length, pack_some
from afina.data.entities import with_texts
from afina.data.readers.texts import as_lists
from afina.data.split import Split
from afina.data.template import Template
from afina.data.terms import joined
from afina.data.tokenize import Encoded, Tokenizer, encode
from afina.data.word_tokens import WordTokens
from afina.events import Listener, Progress, ignore
from afina.generating.answers import answers, likelihoods
from afina.methods.method import Method
from afina.models import counted_kinds, objectives
from afina.models.adapter import Adapter
from afina.models.answer_profile import AnswerProfile
from afina.models.backbone import Backbone
from afina.models.bag_of_words import BagOfWords
from afina.models.classifier import Classifier
from afina.models.kernels import int8_calibration
from afina.models.language_model import LanguageModel, open_model
from afina.models.manifest import Manifest
from afina.models.objective import Objective
from afina.models.objectives import Texts
from afina.models.predictions import Predictions
from afina.models.shared_beginning import SharedBeginning
from afina.predicting import problems, reading, saved_classifiers
from afina.predicting.backbone_digest import check_backbone
from afina.predicting.reading import AS_TRAINED, Reading, Truncation
from afina.repr_html import ReprCard


def logits(classifier: Classifier, encoded: Encoded, listen: Listener = ignore) -> np.ndarray:
    """Return the classifier's outputs, float32 [N, width], in the order of `encoded` and in the weights' dtype.

    Tokens with which all sequences begin are computed once, if they are at least `shared_beginning.LEAST`.
    """
    keep_freed()
    classifier.eval()
    device = next(classifier.parameters()).device
    result: np.ndarray | None = None
    done = 0
    with torch.inference_mode():
        beginning = SharedBeginning.of(classifier, encoded)
        own, outputs = encoded, classifier.outputs
        if beginning is not None:
            own, outputs = beginning.rest(encoded), beginning.outputs
        for indices, packed in by_length(own, before=classifier.before):
            part = outputs(packed.to(device))
            if result is None:
                result = np.empty((len(encoded), *part.shape[1:]), dtype=part.dtype)
            result[indices] = part
            done += len(indices)
            listen(Progress("evaluate", done, len(encoded)))
    return np.zeros((0, 0), np.float32) if result is None else result


def read_outputs(classifier: Classifier, encoded: Encoded, listen: Listener = ignore) -> list[np.ndarray]:
    """Return the outputs for the words that are read in each sequence (`Encoded.reads`), float32 [M, width]."""
    keep_freed()
    classifier.eval()
    device = next(classifier.parameters()).device
    found: dict[int, np.ndarray] = {}
    computed = np.zeros(len(encoded), bool)
    with torch.inference_mode():
        for indices, packed in by_length(encoded, before=classifier.before):
            counts = [int((row != IGNORED).sum()) for row in packed.by_sequence(packed.targets)]
            parts = np.split(classifier.outputs(packed.to(device)), np.cumsum(counts)[:-1])
            found |= zip(indices.tolist(), parts, strict=True)
            computed[indices] = True
            listen(Progress("evaluate", encoded.whole_texts(computed), encoded.texts))
    return [found[index] for index in range(len(encoded))]


def word_predictions(
    classifier: Classifier, encoded: WordTokens, targets: np.ndarray | None = None, listen: Listener = ignore
) -> Predictions:
    """Return the classifier's outputs for the words of each text, together with `targets`."""
    windows = read_outputs(classifier, encoded, listen)
    width = windows[0].shape[1] if windows else 0
    return Predictions(encoded.joined_outputs(windows, width), targets, {"words": encoded.words})


def predicted(
    classifier: Classifier,
    encoded: Encoded,
    objective: Objective,
    tokenizer: Tokenizer,
    listen: Listener = ignore,
    *,
    targets: np.ndarray | None = None,
    references: References | None = None,
) -> Predictions:
    """Return predictions together with `targets`, in the order of `encoded`; a language model generates its answers."""
    if isinstance(classifier, LanguageModel):
        given = (classifier, encoded, cast(Texts, objective), tokenizer, listen)
        return answers(*given, references=references, targets=targets)
    if isinstance(encoded, WordTokens):
        return word_predictions(classifier, encoded, targets, listen)
    return Predictions(logits(classifier, encoded, listen), targets)


def grouped(predictions: Predictions, groups: np.ndarray | None) -> Predictions:
    """Return predictions of words with the number of each text's document, which intervals of their metrics need."""
    if groups is None or "words" not in predictions.extras:
        return predictions
    return replace(predictions, extras={**predictions.extras, "document": groups})


@dataclass(frozen=True, eq=False, repr=False)
class Predictor(ReprCard, ABC):
    """An opened adapter, with or without a backbone, that predicts texts.

    Attributes:
        manifest: The adapter's manifest.
        where: The adapter's directory, for error messages.
        decoding: Settings of generation (fields of `Decoding`) that replace those in the manifest.
    """

    manifest: Manifest
    where: str
    decoding: Mapping[str, Any] = field(default_factory=dict, kw_only=True)

    def facts(self) -> dict[str, object]:
        return {"where": self.where, **self.manifest.summary, "computes in": self.dtype}

    @staticmethod
    def load(adapter: str | Path | Adapter, backbone: str | None = None, dtype: str = "float32") -> Predictor:
        """Open an adapter, or the adapter in a directory, on a backbone.

        Args:
            adapter: The adapter, the path of its directory, or the path of a classifier of texts or tokens that
                transformers has saved with `save_pretrained`.
            backbone: Address of the backbone. None: the backbone that the adapter names.
            dtype: Type in which the predictor computes: "float32", "bfloat16", "auto" or "int8", as described in `of`.

        Raises:
            NotFound: The adapter or the backbone does not exist.
            WrongBackbone: The adapter was made for another backbone.
            CorruptAdapter: A file of the adapter is damaged, or its tensors do not fit the backbone.
            InvalidStudy: afina does not support the adapter's hyperparameters, or the dtype.
        """
        if not isinstance(adapter, Adapter) and saved_classifiers.is_saved(Path(adapter)):
            made, base, _ = saved_classifiers.read(Path(adapter), backbone)
            return Predictor.of(made, base, dtype)
        opened = adapter if isinstance(adapter, Adapter) else Adapter.load(adapter)
        return Predictor.of(opened, backbone_of(opened, backbone), dtype)

    @staticmethod
    def of(adapter: Adapter, backbone: Backbone | None = None, dtype: str = "float32") -> Predictor:
        """Open an adapter on an open backbone.

        The weights of a backbone are hashed only for the first adapter that is opened on it.

        Args:
            adapter: The adapter to open.
            backbone: The open backbone. `backbone` may be None only for an adapter that needs no backbone.
            dtype: Type in which the predictor computes. "auto": bfloat16 if the device computes it natively, otherwise
                float32. "int8": the backbone's linear layers multiply in int8, and everything else is as with "auto".

        Raises:
            UnknownName: There is no dtype of this name.
            NotFound: The adapter needs a backbone and `backbone` is None.
            WrongBackbone: The backbone's digest differs from the manifest's.
            CorruptAdapter: The adapter's tensors do not fit the backbone.
            InvalidStudy: The adapter's method does not support the backbone, or the device or the method does not
                support the dtype.
        """
        devices.compute_type(dtype, devices.choose())
        if adapter.vocabulary is not None:
            return WordsPredictor(adapter.manifest, adapter.where, BagOfWords.of(adapter))
        if backbone is None:
            raise problems.BACKBONE_UNNAMED(where=adapter.where)
        made = ModelPredictor.on(adapter, backbone, calibrates=dtype == devices.INT8)
        made.lower(dtype)
        return made

    @cached_property
    def objective(self) -> Objective:
        """The kind of task that the adapter was trained for, with its settings."""
        made = objectives.make(self.manifest.label_names, self.manifest.objective)
        return made.decoding_changed(**self.decoding) if self.decoding else made

    def generating(self, **changes: Any) -> Self:
        """Return a predictor with other decoding settings, which shares the model with this predictor.

        Args:
            **changes: Fields of `Decoding`, such as max_new_tokens, beams, temperature or seed.

        Raises InvalidStudy if a value is invalid, or if the adapter does not generate its answers.
        """
        made = replace(self, decoding={**self.decoding, **changes})
        _ = made.objective
        return made

    @property
    @abstractmethod
    def dtype(self) -> str:
        """Name of the type in which the predictor computes, such as "float32"."""

    @abstractmethod
    def lower(self, dtype: str) -> None:
        """Convert the predictor to compute in `dtype` (as in `of`); a later call cannot restore the precision."""

    def predict(
        self,
        texts: Iterable[str],
        pairs: Iterable[str] | None = None,
        *,
        where: str = "text",
        before: int = 0,
        spaced: bool = False,
    ) -> tuple[Predictions, int]:
        """Predict texts, which are tokenised first.

        Args:
            texts: A list, array, Series or other collection of texts (`afina.data.readers.texts.as_lists`).
            pairs: The second texts of pairs, in any form that `texts` may have.
            where: What error messages call the texts.
            before: Number of texts in earlier calls, which error messages add to a text's number.
            spaced: For entities, whether the texts were given as words, between which there are single spaces.

        Returns:
            The predictions, and the number of truncated texts.

        Raises:
            InvalidData: A text is unreadable or blank; or pairs are given and the adapter reads single texts, or the
                reverse.
            CorruptAdapter: An output of the adapter is NaN or infinite.
        """
        return self._predict(*as_lists(texts, pairs), where, before, spaced)

    def measure(self, split: Split, *, where: str = "text") -> tuple[Predictions, int]:
        """Predict the texts of a split; the predictions also have the split's targets, and further values for metrics.

        Returns and raises the same as the method `predict`.
        """
        found, truncated = self.predict(split.texts, split.pairs, where=where, spaced=split.spaced)
        return grouped(found.against(split.labels), split.group_numbers), truncated

    @abstractmethod
    def _predict(
        self, texts: Sequence[str], pairs: Sequence[str] | None, where: str, before: int, spaced: bool
    ) -> tuple[Predictions, int]:
        """Predict lists of texts; the method `predict` describes the arguments."""

    def profile(self, split: Split, edges: Sequence[float], *, where: str = "text") -> AnswerProfile | None:
        """Return the counts of a split's texts and of the answers to them; None if the kind has no such counts.

        `edges` are those of the bins of scores (`AnswerProfile.edges`).
        """
        found, _ = self.predict(split.texts, split.pairs, where=where)
        return counted_kinds.profile(self.objective, found, self._tokens(split, where), edges)

    def _tokens(self, split: Split, where: str) -> Iterator[np.ndarray]:
        """Yield the token ids of each text; none for an adapter that reads no tokens."""
        return (np.zeros(0, np.int32) for _ in range(len(split)))

    @property
    def takes_pairs(self) -> bool | None:
        """Whether the adapter was trained on pairs of texts; None: the manifest does not say."""
        return reading.takes_pairs(self.manifest)

    def outputs(self, texts: Iterable[str], pairs: Iterable[str] | None = None, *, before: int = 0) -> np.ndarray:
        """Return the model's outputs, which `predict` decodes, [N, width]; used to compare adapters."""
        return self.predict(texts, pairs, before=before)[0].outputs

    def __call__(
        self, texts: Iterable[str], pairs: Iterable[str] | None = None, *, before: int = 0
    ) -> list[dict[str, Any]]:
        """Return each text's prediction as JSON values (`Objective.answers`); arguments as in `predict`.

        Entities also have their part of the text.
        """
        first, second = as_lists(texts, pairs)
        if not len(first):
            return []
        found = self.objective.answers(self.predict(first, second, before=before)[0])
        return [with_texts(answer, str(text)) for answer, text in zip(found, first, strict=True)]


def backbone_of(adapter: Adapter, address: str | None = None) -> Backbone | None:
    """Open the backbone at `address`, or by default the adapter's own; None: the adapter needs no backbone.

    Raises NotFound if the adapter does not name its backbone or the backbone does not exist, and InvalidStudy if the
    adapter needs no backbone or afina does not support it.
    """
    if adapter.vocabulary is not None:
        if address is not None:
            raise problems.BACKBONE_NEEDLESS(where=adapter.where, option="backbone")
        return None
    if (address := address or adapter.manifest.backbone) is None:
        raise problems.BACKBONE_UNNAMED(where=adapter.where)
    return Backbone.load(address)


@dataclass(frozen=True, eq=False, repr=False)
class WordsPredictor(Predictor):
    """The predictor of a bag-of-words adapter, which needs no backbone and does not truncate texts."""

    model: BagOfWords

    @property
    def dtype(self) -> str:
        return "float64"

    def lower(self, dtype: str) -> None:
        """Do nothing: the model always computes in float64."""

    def _predict(
        self, texts: Sequence[str], pairs: Sequence[str] | None, where: str, before: int, spaced: bool
    ) -> tuple[Predictions, int]:
        reading.check(self.manifest, self.where, texts, pairs, where=where, before=before)
        return Predictions(self.model.outputs(joined(texts, pairs))), 0


@dataclass(frozen=True, eq=False, repr=False)
class ModelPredictor(Predictor):
    """The predictor of an adapter on its backbone, on the device that `afina.device` chooses.

    Attributes:
        classifier: The backbone with the adapter's method, weights and head.
        backbone: The backbone without the adapter's changes.
    """

    classifier: Classifier
    backbone: Backbone
    method: Method
    truncation: Truncation = AS_TRAINED

    def facts(self) -> dict[str, object]:
        return {**super().facts(), "not in int8": self.classifier.not_in_int8}

    @classmethod
    def on(cls, adapter: Adapter, backbone: Backbone, *, calibrates: bool = False) -> Self:
        """Open the adapter in float32; if `calibrates`, also measure `int8_factors`. Raises the errors of `of`."""
        manifest = adapter.manifest
        method = reading.method_of(adapter, backbone)
        asked = objectives.make(manifest.label_names, manifest.objective)
        classifier = open_model(backbone, asked.output_names, 0, asked.opening, precision=manifest.precision)
        check_backbone(adapter, backbone, classifier.body)
        if calibrates:
            int8_factors(backbone, manifest.precision, classifier)
        method.check(classifier.model, adapter.tensors)
        classifier.wrap(method.attach)
        method.restore(classifier.model, adapter.tensors)
        classifier.offset = None if manifest.offset is None else torch.tensor(manifest.offset)
        classifier.to(devices.choose())
        return cls(manifest, adapter.where, classifier, backbone, method)

    @property
    def dtype(self) -> str:
        """The type in which the backbone computes; the head always computes in float32."""
        return self.classifier.computes

    def lower(self, dtype: str) -> None:
        """Convert the body's weights to `dtype`, in oneDNN's memory layout if that is faster.

        Raises the errors of `compute_type`, and InvalidStudy for int8 if the method reads the backbone's weights
        itself.
        """
        wanted, method = devices.compute_type(dtype, next(self.classifier.parameters()).device), self.method
        if self.dtype != "float32":
            return
        if wanted.name == devices.INT8:
            if not method.packs:
                raise problems.METHOD_NOT_IN_INT8(where=self.where, dtype=wanted.name, method=method.name)
            self.classifier.use_int8(int8_factors(self.backbone, self.manifest.precision))
        if wanted.dtype != torch.float32:
            unlowered = method.unlowered(self.classifier.model)
            self.classifier.lower(wanted.dtype, packs=method.packs, unlowered=unlowered)

    @cached_property
    def reading(self) -> Reading:
        return Reading(self.manifest, self.where, self.backbone, self.method, self.truncation)

    @property
    def template(self) -> Template | None:
        return self.reading.template

    @property
    def max_length(self) -> int:
        return self.reading.max_length

    def encode(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        *,
        where: str = "text",
        before: int = 0,
        spaced: bool = False,
    ) -> Encoded:
        """Tokenise texts as in training. Arguments and errors are those of the method `predict`."""
        return self.reading.encode(texts, pairs, where=where, before=before, spaced=spaced)

    def _tokens(self, split: Split, where: str) -> Iterator[np.ndarray]:
        return self.encode(split.texts, split.pairs, where=where).each

    def measure(self, split: Split, *, where: str = "text") -> tuple[Predictions, int]:
        """Predict the texts of a split; for a language model, also compute the likelihood of the right answers."""
        found, truncated = super().measure(split, where=where)
        if not isinstance(self.classifier, LanguageModel):
            return found, truncated
        assert self.template is not None
        tokenizer = self.backbone.tokenizer
        references = encode_references(tokenizer, split.texts, split.pairs, split.labels, self.template, where=where)
        prompts = self.encode(split.texts, split.pairs, where=where)
        extras = {**found.extras, **likelihoods(self.classifier, prompts, references)}
        return reading.finite(replace(found, extras=extras), self.where), truncated

    def _predict(
        self, texts: Sequence[str], pairs: Sequence[str] | None, where: str, before: int, spaced: bool
    ) -> tuple[Predictions, int]:
        encoded = self.encode(texts, pairs, where=where, before=before, spaced=spaced)
        found = predicted(self.classifier, encoded, self.objective, self.backbone.tokenizer)
        return reading.finite(found, self.where), encoded.truncated


def int8_factors(backbone: Backbone, precision: str, opened: Classifier | None = None) -> dict[str, Tensor]:
    """Return the factors for `Classifier.use_int8`, measured on the built-in sentences of the golden test.

    The factors are measured without an adapter, once for each precision of the frozen weights. So the same layers
    multiply in int8 with the same factors for every adapter, in a predictor, a server and `afina replay`. `opened` is
    the open backbone in float32 and this precision, without a method; None: it is opened only to measure the factors.
    """
    if precision not in backbone.int8_factors:
        if opened is None:
            opened = Classifier.open(backbone, ("0", "1"), seed=0, precision=precision)
        classifier, encoded = opened.eval(), encode(backbone.tokenizer, reading.SENTENCES, max_length=backbone.longest)
        batch = pack_some(encoded, range(len(encoded)))
        layers, bounds = classifier.own_linear, batch.bounds
        measured = int8_calibration.int8_factors(layers, lambda: classifier.features(batch), bounds)
        backbone.int8_factors[precision] = measured
    return backbone.int8_factors[precision]
