"""Import classifiers of texts or tokens that transformers' `save_pretrained` has saved, as adapters of `full`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from afina.methods.selective import Full
from afina.models import objectives
from afina.models.adapter import Adapter
from afina.models.classifier import Classifier
from afina.predicting import golden_test, saved_classifiers


def convert(directory: Path, backbone: str, out: Path) -> Adapter:
    """Write a classifier that transformers has saved as an adapter of the method `full` to the directory `out`.

    afina and transformers can open `out`. Raises what `saved_classifiers.read` raises, and CannotWrite if `out` cannot
    be written.
    """
    adapter, base, model = saved_classifiers.read(directory, backbone)
    objective = objectives.make(adapter.manifest.label_names, adapter.manifest.objective)
    outputs = golden_test.outputs(Classifier(model), base, base.longest, words=objective.reads_words)
    manifest = adapter.manifest.model_copy(update={"probe": tuple(map(tuple, outputs))}).sealed()
    adapter = replace(adapter, manifest=manifest)
    adapter.save(out, lambda fresh: Full().accompany(model, base, fresh))
    return adapter
