"""Probes: whether an adapter still computes what it computed when it was made. Knows no task and no text of a user."""

from __future__ import annotations

import numpy as np

from afina.data.template import Template
from afina.data.tokenize import encode
from afina.errors import CorruptAdapter
from afina.inference.predictor import Predictor, logits
from afina.models.backbone import Backbone
from afina.models.classifier import Classifier

TOLERANCE = 1e-4
"""Largest difference of a probe's outputs, relative to the largest of them."""

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
"""Sentences of our own whose outputs an adapter's manifest records; never a user's texts."""


def probe(
    classifier: Classifier, backbone: Backbone, max_length: int, template: Template | None = None
) -> list[list[float]]:
    """The outputs of the built-in sentences, [sentence][label]; in a template for pairs, each with the next."""
    pairs = (*PROBE[1:], PROBE[0]) if template and template.takes_pairs else None
    outputs = logits(classifier, encode(backbone.tokenizer, PROBE, pairs, max_length=max_length, template=template))
    return [[float(x) for x in row] for row in outputs]


def check(predictor: Predictor) -> None:
    """Raise CorruptAdapter where the built-in sentences give other outputs than the manifest records, if any."""
    manifest = predictor.manifest
    if manifest.probe is None:
        return
    expected = np.array(manifest.probe)
    actual = np.array(probe(predictor.classifier, predictor.backbone, predictor.max_length, predictor.template))
    difference = float(np.abs(actual - expected).max() / max(np.abs(expected).max(), 1e-12))
    if difference > TOLERANCE:
        raise CorruptAdapter(
            f"{predictor.where}: the probe's logits differ by {difference:.1e} of their scale, at most "
            f"{TOLERANCE:.0e} may. The libraries here compute something else than when it was made: "
            f"{manifest.versions}."
        )
