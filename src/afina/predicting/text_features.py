"""Features of texts: the pooled hidden states of a frozen backbone, which a linear probe reads.

The module `text_features` trains nothing, and does not know labels or tasks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from afina import device as devices
from afina.allocator import keep_freed
from afina.data.batch import by_length
from afina.data.tokenize import encode
from afina.events import Listener, Progress, ignore
from afina.methods import make
from afina.methods.attachment import attach
from afina.models.backbone import Backbone
from afina.models.classifier import Classifier

METHOD = "linear_probe"
"""The method whose pooling the features have: that of sentence-transformers' files, else that of the model family."""

LONGEST = 512
"""The largest number of tokens of a text; longer texts are truncated."""


def text_features(
    backbone: Backbone,
    texts: Sequence[str],
    pairs: Sequence[str] | None = None,
    listen: Listener = ignore,
    *,
    where: str = "text",
) -> np.ndarray:
    """Return the features of N texts, float32 [N, width], in the order of the texts.

    The features are those to which scikit-learn fits the head of a linear probe on `backbone`.

    Args:
        pairs: The second text of each pair. None: single texts.
        listen: Called with the progress, in texts.
        where: A name for the texts in error messages.

    Raises InvalidData for a text without tokens, and InvalidStudy if the backbone has no pooling for a linear probe.
    """
    method = make(METHOD).for_backbone(backbone)
    classifier = Classifier.open(backbone, ("0", "1"), seed=0)
    attach(classifier, method)
    device = devices.choose()
    classifier.to(device)
    keep_freed()
    encoded = encode(backbone.tokenizer, texts, pairs, max_length=min(LONGEST, backbone.longest), where=where)
    made = np.zeros((len(encoded), int(classifier.output_layer.in_features)), np.float32)
    done = 0
    with torch.inference_mode():
        for indices, packed in by_length(encoded):
            made[indices] = classifier.head_input(packed.to(device)).cpu().numpy()
            done += len(indices)
            listen(Progress("evaluate", done, len(encoded)))
    return made
