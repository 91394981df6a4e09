"""Classifier and texts to logits, in any order and batching without a change of result."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from afina import methods
from afina.allocator import keep_freed
from afina.data.loader import by_length
from afina.data.tokenize import Encoded, encode
from afina.errors import CorruptAdapter, WrongBackbone
from afina.events import Listener, Progress, ignore
from afina.methods.method import Method
from afina.models.adapter import Adapter, Manifest
from afina.models.backbone import Backbone
from afina.models.classifier import Classifier

PROBE_TOLERANCE = 1e-4
"""Largest difference of a probe's logits, relative to the largest of them."""

PROBE = (
    "The soup was hot, the service quick, and we left happy.",
    "It stopped working on the second day.",
    "Nobody asked for a sequel, and this one shows why.",
    "A quiet, generous book about two brothers and a boat.",
    "The meeting has been moved to Thursday at ten.",
    "Not bad at all!",
    "I wanted to like it. I did not.",
    "7 of 10, would rent again",
)
"""Sentences of our own whose logits an adapter's manifest records; never a user's texts."""


def logits(classifier: Classifier, encoded: Encoded, listen: Listener = ignore) -> np.ndarray:
    """Logits, float32 [N, number of labels], in the order of `encoded`; computed in the weights' own precision."""
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


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Softmax over the last axis."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    result: np.ndarray = shifted / shifted.sum(axis=-1, keepdims=True)
    return result


def of_texts(
    classifier: Classifier, backbone: Backbone, texts: Sequence[str], pairs: Sequence[str] | None, max_length: int
) -> np.ndarray:
    """Logits of raw texts, float32 [N, number of labels]."""
    return logits(classifier, encode(backbone.tokenizer, texts, pairs, max_length=max_length))


def probe(classifier: Classifier, backbone: Backbone, max_length: int) -> list[list[float]]:
    """The logits of the built-in sentences."""
    return [[float(x) for x in row] for row in of_texts(classifier, backbone, PROBE, None, max_length)]


def open_adapter(adapter: Adapter, backbone: Backbone, *, check_probe: bool = False) -> tuple[Classifier, Method]:
    """The classifier that the adapter makes of its backbone, ready to predict.

    Raises WrongBackbone when the backbone's digest is not the manifest's, CorruptAdapter when the tensors do not
    fit, or when `check_probe` is asked and the built-in sentences give other logits than they gave when it was made.
    """
    manifest = adapter.manifest
    classifier = Classifier.open(backbone, manifest.label_names, seed=0)
    found = backbone.digest_of(classifier.body)
    if manifest.backbone_digest is not None and found != manifest.backbone_digest:
        what = _difference(backbone, classifier, manifest)
        raise WrongBackbone(
            f"{adapter.where}: made for backbone {manifest.backbone} with digest {manifest.backbone_digest[:19]}, "
            f"but {backbone.address} has {found[:19]} ({what}). Give the right one with --backbone."
        )
    method = methods.make(manifest.method, manifest.hyperparameters, adapter.where).for_family(backbone.family)
    classifier.wrap(method.attach)
    method.restore(classifier.model, adapter.tensors)
    if check_probe and manifest.probe is not None:
        expected = np.array(manifest.probe)
        actual = np.array(probe(classifier, backbone, manifest.max_length or backbone.longest))
        difference = float(np.abs(actual - expected).max() / max(np.abs(expected).max(), 1e-12))
        if difference > PROBE_TOLERANCE:
            raise CorruptAdapter(
                f"{adapter.where}: the probe's logits differ by {difference:.1e} of their scale, at most "
                f"{PROBE_TOLERANCE:.0e} may. The libraries here compute something else than when it was made: "
                f"{manifest.versions}."
            )
    return classifier, method


def _difference(backbone: Backbone, classifier: Classifier, manifest: Manifest) -> str:
    if backbone.tokenizer_digest == manifest.tokenizer_digest:
        return "the weights differ"
    with_its_tokenizer = backbone.digest_of(classifier.body, manifest.tokenizer_digest)
    return "the tokenizer differs" if with_its_tokenizer == manifest.backbone_digest else "weights and tokenizer differ"
