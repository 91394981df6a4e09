"""The golden test: whether an adapter still computes the outputs that were recorded after training.

Manifests have the outputs under the name `probe`.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from afina.data.answer_tokens import References, encode_references
from afina.data.template import PAIR, Template
from afina.data.tokenize import Encoded, Tokenizer, encode
from afina.data.word_tokens import encode_words
from afina.device import INT8, choose, compute_type
from afina.generating.answers import token_losses_of
from afina.models.adapter import Adapter
from afina.models.backbone import Backbone
from afina.models.classifier import Classifier
from afina.models.language_model import LanguageModel
from afina.models.manifest import Manifest
from afina.predicting import problems
from afina.predicting.predictor import ModelPredictor, Predictor, backbone_of, logits, word_predictions
from afina.predicting.reading import SENTENCES

TOLERANCE = 1e-4
"""Maximum difference between an adapter's outputs and those recorded after training, relative to the largest output."""


def outputs(
    classifier: Classifier,
    backbone: Backbone,
    max_length: int,
    template: Template | None = None,
    *,
    words: bool = False,
) -> list[list[float]]:
    """Return the classifier's outputs for the built-in sentences, [sentence][label].

    If the template is for pairs, each sentence is paired with the next. For a language model, the outputs are
    log-probabilities of given tokens, [sentence][token]; for words (`Objective.reads_words`), they are [word][tag].
    """
    return _outputs(classifier, backbone, max_length, template, words=words).tolist()  # type: ignore[no-any-return]


def _outputs(
    classifier: Classifier, backbone: Backbone, max_length: int, template: Template | None, *, words: bool
) -> np.ndarray:
    tokenizer = backbone.tokenizer
    if words:
        windows = encode_words(tokenizer, SENTENCES, max_length=max_length)
        return rows(word_predictions(classifier, windows).outputs)
    pairs = _pairs(template.source if template else None)
    prompts = encode(tokenizer, SENTENCES, pairs, max_length=max_length, template=template)
    if not isinstance(classifier, LanguageModel):
        return logits(classifier, prompts)
    assert template is not None
    return _likelihoods(classifier, prompts, backbone, template)


TAUGHT = 4
"""The number of tokens of each built-in answer whose log-probabilities are recorded for a language model."""


def _likelihoods(model: LanguageModel, prompts: Encoded, backbone: Backbone, template: Template) -> np.ndarray:
    """Return the log-probabilities of the first tokens of the built-in answers, [sentence, TAUGHT].

    The tokens are given: a generated answer could differ completely if rounding changed one token.
    """
    return -token_losses_of(model, prompts, taught(backbone.tokenizer, template)).reshape(len(SENTENCES), TAUGHT)


def taught(tokenizer: Tokenizer, template: Template) -> References:
    """Return the first tokens of the built-in answers, whose log-probabilities are recorded for a language model."""
    targets = [(sentence,) for sentence in (*SENTENCES[1:], SENTENCES[0])]
    return encode_references(tokenizer, SENTENCES, _pairs(template.source), targets, template).cut(TAUGHT)


def _pairs(template: str | None) -> tuple[str, ...] | None:
    return (*SENTENCES[1:], SENTENCES[0]) if template is not None and PAIR in template else None


def opened(adapter: Adapter, backbone: str | None, dtype: str = "float32", *, checked: bool = False) -> Predictor:
    """Open an adapter for prediction, optionally after its golden test, which compares outputs in float32.

    Raises the errors of `Predictor.of` and `check`.
    """
    compute_type(dtype, choose())
    made = Predictor.of(adapter, backbone_of(adapter, backbone), "float32" if checked else dtype)
    if checked:
        check(made)
        made.lower(dtype)
    return made


def check(predictor: Predictor) -> None:
    """Raise CorruptAdapter if the adapter's outputs for the built-in sentences differ from those in the manifest.

    Raises InvalidStudy as `difference` does.
    """
    found = difference(predictor)
    if not found <= TOLERANCE:
        raise problems.PROBE_DIFFERS(
            where=predictor.where, difference=found, tolerance=TOLERANCE, _versions=str(predictor.manifest.versions)
        )


def difference(predictor: Predictor) -> float:
    """Return the largest difference from the outputs in the manifest, divided by the largest of these.

    Raises InvalidStudy if the manifest has no recorded outputs, or the predictor computes in bfloat16 or int8; and
    CorruptAdapter if the number of outputs differs.
    """
    expected = recorded(predictor.manifest, predictor.where)
    if predictor.dtype in ("bfloat16", INT8):
        raise problems.PROBE_DTYPE(dtype=predictor.dtype)
    if isinstance(predictor, ModelPredictor) and isinstance(predictor.classifier, LanguageModel):
        reading = predictor.classifier, predictor.backbone, predictor.max_length, predictor.template
        actual = _outputs(*reading, words=False)
    else:
        actual = rows(predictor.outputs(SENTENCES, _pairs(predictor.manifest.template)))
    return compared(actual, expected, predictor.where)


def rows(outputs: Iterable[np.ndarray]) -> np.ndarray:
    """Return the outputs for the built-in sentences as they are recorded, [sentence, label]; for words, [word, tag]."""
    return np.concatenate([np.atleast_2d(one) for one in outputs])


def asked(manifest: Manifest) -> list[tuple[str, str | None]]:
    """Return the built-in sentences of the golden test as an adapter reads them, each with a second text or None."""
    return [*zip(SENTENCES, _pairs(manifest.template) or [None] * len(SENTENCES), strict=True)]


def compared(actual: np.ndarray, expected: np.ndarray, where: str) -> float:
    """Return the largest difference, divided by the largest expected output. Raises CorruptAdapter for other shapes."""
    if actual.shape != expected.shape:
        raise problems.PROBE_SHAPE(where=where, found=actual.shape, expected=expected.shape)
    return float(np.abs(actual - expected).max() / max(np.abs(expected).max(), 1e-12))


def recorded(manifest: Manifest, where: str) -> np.ndarray:
    """Return the golden test's outputs in a manifest, as `rows` returns them. Raises InvalidStudy without any."""
    if manifest.probe is None:
        raise problems.PROBE_MISSING(where=where)
    return np.array(manifest.probe)
