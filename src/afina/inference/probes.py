"""Probes: whether an adapter still computes what it computed when it was made. Knows no task and no text of a user."""

from __future__ import annotations

import numpy as np

from afina.data.tokenize import PAIR, Template, encode
from afina.errors import CorruptAdapter, InvalidStudy
from afina.inference.predictor import Predictor, backbone_of, logits
from afina.inference.reading import PROBE
from afina.models.adapter import Adapter
from afina.models.backbone import Backbone
from afina.models.classifier import Classifier
from afina.models.manifest import Manifest

__all__ = ["PROBE", "TOLERANCE", "asked", "check", "compared", "difference", "opened", "probe", "recorded"]

TOLERANCE = 1e-4
"""Largest difference of a probe's outputs, relative to the largest of them."""


def probe(
    classifier: Classifier, backbone: Backbone, max_length: int, template: Template | None = None
) -> list[list[float]]:
    """The outputs of the built-in sentences, [sentence][label]; in a template for pairs, each with the next."""
    pairs = _pairs(template.source if template else None)
    outputs = logits(classifier, encode(backbone.tokenizer, PROBE, pairs, max_length=max_length, template=template))
    return [[float(x) for x in row] for row in outputs]


def _pairs(template: str | None) -> tuple[str, ...] | None:
    return (*PROBE[1:], PROBE[0]) if template is not None and PAIR in template else None


def opened(adapter: Adapter, backbone: str | None, dtype: str = "float32", *, checked: bool = False) -> Predictor:
    """The adapter's predictor, on the backbone at that address or the one that it names.

    checked  first compare with the probe, in float32 as that was recorded, whatever `dtype` is computed in afterwards
    Raises as `Predictor.of` and `check` do.
    """
    made = Predictor.of(adapter, backbone_of(adapter, backbone), "float32" if checked else dtype)
    if checked:
        check(made)
        made.lower(dtype)
    return made


def check(predictor: Predictor) -> None:
    """Raise CorruptAdapter where the built-in sentences give other outputs than the manifest records.

    Raises InvalidStudy where it records none, and for a predictor that computes in fewer digits than those were.
    """
    found = difference(predictor)
    if not found <= TOLERANCE:
        raise CorruptAdapter(
            f"{predictor.where}: the probe's logits differ by {found:.1e} of their scale, at most "
            f"{TOLERANCE:.0e} may. The libraries here compute something else than when it was made: "
            f"{predictor.manifest.versions}.",
            code="adapter.probe-differs",
            where=predictor.where,
            difference=found,
        )


def difference(predictor: Predictor) -> float:
    """By how much the outputs of the built-in sentences differ from those that the manifest records.

    The largest difference, as a share of the largest of the recorded outputs.
    Raises InvalidStudy as `check` does, CorruptAdapter where there are more or fewer outputs than recorded ones.
    """
    expected = recorded(predictor.manifest, predictor.where)
    if predictor.dtype == "bfloat16":
        raise InvalidStudy(
            "the probe is compared in float32, and this predictor computes in bfloat16. Check it first.",
            code="dtype.unsuitable",
            dtype="bfloat16",
        )
    actual = predictor.outputs(PROBE, _pairs(predictor.manifest.template))
    return compared(actual, expected, predictor.where)


def asked(manifest: Manifest) -> list[tuple[str, str | None]]:
    """The built-in sentences as an adapter is asked them, each with its pair, if it has one."""
    return [*zip(PROBE, _pairs(manifest.template) or [None] * len(PROBE), strict=True)]


def compared(actual: np.ndarray, expected: np.ndarray, where: str) -> float:
    """The largest difference of outputs, as a share of the largest that is expected. Raises as `difference` does."""
    if actual.shape != expected.shape:
        raise CorruptAdapter(
            f"{where}: its probe has the shape {list(expected.shape)}, its outputs {list(actual.shape)}. "
            "Copy the adapter again, or train it again.",
            code="adapter.file-malformed",
            where=where,
            found=actual.shape,
            expected=expected.shape,
        )
    return float(np.abs(actual - expected).max() / max(np.abs(expected).max(), 1e-12))


def recorded(manifest: Manifest, where: str) -> np.ndarray:
    """What it records of the built-in sentences, [sentence, label]. Raises InvalidStudy where it records nothing."""
    if manifest.probe is None:
        raise InvalidStudy(
            f"{where}: no probe is recorded, so there is nothing to check. Leave it out.",
            code="probe.missing",
            where=where,
        )
    return np.array(manifest.probe)
