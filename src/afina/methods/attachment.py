"""Attach a method to a classifier, hold it to the contract before anything is trained, and count what it trains.

Whatever is to be trained comes by here, so that a method that trains nothing by mistake, or starts from another model
than the pretrained one, costs seconds and not a run. Parameters are counted from a configuration alone. Knows no
method by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import Parameter

from afina.data.batch import pack
from afina.errors import InvalidStudy
from afina.methods import METHODS, make
from afina.methods.method import Method
from afina.models.architectures import is_head
from afina.models.backbone_spec import FLOAT
from afina.models.classifier import Classifier, ParameterCounts, count_parameters
from afina.models.pretrained import meta_model

TOLERANCE = 1e-5
"""Largest change of a logit at attach, relative to the largest logit."""


def attach(classifier: Classifier, method: Method) -> None:
    """Let `method` prepare the classifier, which is in evaluation afterwards. Draws only what the method draws.

    Raises InvalidStudy where other parts train than the method says, or the logits of a few tokens change; on the
    `meta` device there are no logits, and of a method that starts apart they do change: only the parts are checked.
    Raises it too for a method that reads frozen weights, where these are held in another form.
    """
    if classifier.precision != FLOAT and not method.packs:
        raise InvalidStudy(
            f"method {method.name}: it reads the backbone's weights, which precision {classifier.precision} holds in "
            "another form. Train another method, or leave `precision` out.",
            code="method.precision-unsupported",
            method=method.name,
        )
    compares = not method.starts_apart and next(classifier.parameters()).device.type != "meta"
    before = _logits(classifier) if compares else None
    classifier.wrap(method.attach)
    classifier.eval()
    _check_parts(method, method.trainable(classifier.model))
    if before is None:
        return
    after = _logits(classifier)
    change = float((after - before).abs().max() / before.abs().max().clamp(min=torch.finfo(before.dtype).tiny))
    if not change <= TOLERANCE:  # refuses NaN as well
        raise InvalidStudy(
            f"method {method.name}: attached, it changes the logits by {change:.1e} of the largest before any step; "
            f"at most {TOLERANCE:.0e} may be. What it adds has to start without effect, as LoRA's B at zero.",
            code="method.changes-logits",
            method=method.name,
            change=change,
        )


def _check_parts(method: Method, trained: Mapping[str, Parameter]) -> None:
    head = [name for name in trained if is_head(name)]
    body = [name for name in trained if not is_head(name)]
    if method.trains_body and not body:
        what = "nothing but the head" if head else "nothing"
        raise InvalidStudy(
            f"method {method.name}: {what} of this model would train. Name parameters or modules that it has.",
            code="method.trains-wrong",
            trained=what,
            method=method.name,
        )
    if method.trains_head and not head:
        raise InvalidStudy(
            f"method {method.name}: the head would not train, and so stay the random one that it is. Let it require "
            'gradients (in peft: task_type="SEQ_CLS", or modules_to_save), or say that it stays frozen (trains_head).',
            code="method.trains-wrong",
            method=method.name,
            parameter="head",
        )
    surplus = ([] if method.trains_body else body) + ([] if method.trains_head else head)
    if surplus:
        raise InvalidStudy(
            f"method {method.name}: {surplus[0]} would train ({len(surplus)} such), which it says stays frozen.",
            code="method.trains-wrong",
            method=method.name,
            parameter=surplus[0],
        )


@torch.no_grad()
def _logits(classifier: Classifier) -> Tensor:
    """Of two sequences of a few tokens, without dropout."""
    device = next(classifier.parameters()).device
    logits: Tensor = classifier.eval()(pack([np.arange(1, 6), np.arange(6, 9)]).to(device))
    return logits


@dataclass(frozen=True)
class BackboneCounts:
    """A backbone's parameters with a head for two labels, and what each method trains of it or beside it.

    methods  with the settings that `count` was given;  as_run  as a run counts, by the methods' defaults
    """

    total: int
    methods: dict[str, ParameterCounts]
    as_run: dict[str, ParameterCounts]


def count(address: str, settings: Mapping[str, Mapping[str, Any]] = MappingProxyType({})) -> BackboneCounts:
    """Counts for two labels, from the configuration at that address.

    settings  by method, hyperparameters that its count is wanted with; where none are given, its defaults
    The total is the unadapted classifier's. A method that has no meaning for the family is left out. Raises NotFound,
    InvalidStudy.
    """
    total = sum(parameter.numel() for parameter in meta_model(address).parameters())
    run = dict(_served(address, METHODS))
    wanted = {name: _counts(address, make(name, settings[name])) if name in settings else run[name] for name in run}
    return BackboneCounts(total, wanted, run)


def applicable(address: str, names: Iterable[str] = tuple(METHODS)) -> list[str]:
    """Those of `names` that have a meaning for the backbone whose configuration is at that address.

    Raises NotFound, InvalidStudy for an address.
    """
    meta_model(address)
    return [name for name, _ in _served(address, names)]


def _served(address: str, names: Iterable[str]) -> Iterator[tuple[str, ParameterCounts]]:
    for name in names:
        try:
            counts = _counts(address, METHODS[name]())
        except InvalidStudy:
            continue
        yield name, counts


def _counts(address: str, method: Method) -> ParameterCounts:
    model = meta_model(address)
    ready = method.for_family(model.config.model_type)
    return count_parameters(ready.trainable(ready.attach(model)))
