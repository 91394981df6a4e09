"""Attach a method to a classifier, check what the method trains and changes, and count trained parameters.

All training starts with `attach`, so that a method that trains nothing by mistake, or changes the pretrained model's
outputs at the start, fails in seconds and not after a run. `count` needs only a model's configuration, not its weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import Parameter

from afina.data.batch import pack
from afina.errors import InvalidStudy
from afina.methods import METHODS, make, problems
from afina.methods.method import Method
from afina.models.architectures import has_head, is_head
from afina.models.backbone_spec import FLOAT
from afina.models.classifier import Classifier, ParameterCounts, count_parameters
from afina.models.objective import SINGLE_LABEL, Opening
from afina.models.objectives import OBJECTIVES
from afina.models.pretrained import meta_model
from afina.models.weights.unread import Unread, computed_from_stand_ins, readable_embedding
from afina.ranks import Ranks

TOLERANCE = 1e-5
"""How much attaching a method may change a logit, relative to the largest logit."""


def attach(classifier: Classifier, method: Method) -> None:
    """Attach a method to a classifier, and switch the classifier to evaluation mode.

    `attach` draws random numbers only for the method's initial values. It compares the logits of a few tokens before
    and after; not on the `meta` device, nor for a method whose `starts_apart` is true, nor if the backbone's weights
    are not read yet.

    Raises InvalidStudy if the method trains other parts than it declares, changes the logits, reads or trains weights
    that are stored as int8 or NF4, or cannot be attached before the weights are read.
    """
    if classifier.precision != FLOAT and not method.packs:
        raise problems.NEEDS_FLOATS(precision=classifier.precision, method=method.name)
    if not has_head(classifier.model):
        _check_needs_no_head(method)
    unread = classifier.unread
    compares = not method.starts_apart and unread is None and next(classifier.parameters()).device.type != "meta"
    before = _logits(classifier) if compares else None
    classifier.wrap(
        method.attach if unread is None else partial(_attached_to_stand_ins, method, unread, classifier.body)
    )
    classifier.eval()
    if classifier.precision != FLOAT:
        _check_stays_frozen(method, classifier)
    _check_parts(method, method.trainable(classifier.model), has_head(classifier.model))
    if before is None:
        return
    after = _logits(classifier)
    change = float((after - before).abs().max() / before.abs().max().clamp(min=torch.finfo(before.dtype).tiny))
    if not change <= TOLERANCE:  # NaN fails too
        raise problems.CHANGES_LOGITS(most=TOLERANCE, method=method.name, change=change)


def shard(classifier: Classifier, method: Method, ranks: Ranks, dtype: torch.dtype, device: torch.device) -> None:
    """Read this rank's part of the weights of a classifier that was opened unread, after `attach`.

    Raises InvalidStudy if the method computes its first values from the backbone's weights and cannot do so now.
    """
    classifier.shard(ranks, dtype, device, unlowered=method.unlowered(classifier.model))
    method.begin(classifier.model)
    _check_values(classifier, method)


def check_begins(classifier: Classifier, method: Method) -> None:
    """Raise InvalidStudy if a method attached to stand-ins computes its first values from the backbone's weights.

    The values of a method that computes them later (`Method.begin`) cannot be checked before the weights are read.
    """
    if type(method).begin is Method.begin:
        _check_values(classifier, method)


def _check_values(classifier: Classifier, method: Method) -> None:
    for name in computed_from_stand_ins(classifier.model):
        raise problems.READS_UNREAD(method=method.name, parameter=name)


def _attached_to_stand_ins(method: Method, unread: Unread, body: Any, model: Any) -> Any:
    """Attach a method to stand-ins, which are NaN. Raises InvalidStudy if it cannot, or writes to them."""
    try:
        with readable_embedding(body, unread):
            return method.attach(model)
    except RuntimeError as error:
        raise problems.ATTACHES_TO_VALUES(method=method.name, reason=str(error).splitlines()[0]) from None


def _check_needs_no_head(method: Method) -> None:
    """Raise InvalidStudy for a method that only trains a head if the model is a language model."""
    if method.trains_body or method.head == "words":
        return
    instead = "Use lora, or a method that trains parts of the model." if method.trains_head else "Use zero-shot."
    raise problems.HEAD_WITHOUT_LABELS(_instead=instead, method=method.name)


def _check_stays_frozen(method: Method, classifier: Classifier) -> None:
    """Raise InvalidStudy for a method that trains int8 or NF4 weight matrices; biases and norms are floats."""
    trained = method.pretrained(classifier.model)
    for name, parameter in classifier.model.named_parameters():
        if name in trained and parameter.dim() > 1:
            raise problems.TRAINS_HELD_WEIGHT(precision=classifier.precision, method=method.name, parameter=name)


def _check_parts(method: Method, trained: Mapping[str, Parameter], headed: bool) -> None:
    head = [name for name in trained if is_head(name)]
    body = [name for name in trained if not is_head(name)]
    if method.trains_body and not body:
        what = "nothing but the head" if head else "nothing"
        raise problems.TRAINS_WRONG(trained=what, method=method.name)
    if headed and method.trains_head and not head:
        raise problems.HEAD_NOT_TRAINED(method=method.name, parameter="head")
    surplus = ([] if method.trains_body else body) + ([] if method.trains_head else head)
    if surplus:
        raise problems.TRAINS_FROZEN(count=len(surplus), method=method.name, parameter=surplus[0])


@torch.no_grad()
def _logits(classifier: Classifier) -> Tensor:
    """For two short token sequences, without dropout."""
    device = next(classifier.parameters()).device
    features = classifier.eval().features(pack([np.arange(1, 6), np.arange(6, 9)]).to(device))
    return classifier.answer(features)


@dataclass(frozen=True)
class BackboneCounts:
    """The numbers of parameters of a backbone with a head for two labels, in total and trained by each method.

    `total` is before a method adds any; `as_run` is with default hyperparameters, `methods` with those given to
    `count`.
    """

    total: int
    methods: dict[str, ParameterCounts]
    as_run: dict[str, ParameterCounts]


def count(address: str, settings: Mapping[str, Mapping[str, Any]] = MappingProxyType({})) -> BackboneCounts:
    """Count the parameters that each method trains with a head for two labels, from a model's configuration.

    Methods that do not support the model family are left out. `settings` has hyperparameters by method key. Raises
    NotFound or InvalidStudy.
    """
    total = sum(parameter.numel() for parameter in meta_model(address).parameters())
    run = dict(_served(address, METHODS))
    wanted = {name: _counts(address, make(name, settings[name])) if name in settings else run[name] for name in run}
    return BackboneCounts(total, wanted, run)


def applicable(address: str, names: Iterable[str] = tuple(METHODS), opening: Opening = SINGLE_LABEL) -> list[str]:
    """Return the keys among `names` of the methods that support a backbone and a kind of task.

    Raises NotFound, or InvalidStudy for an unsupported backbone.
    """
    meta_model(address)
    return [name for name, _ in _served(address, names, opening)]


def _served(
    address: str, names: Iterable[str], opening: Opening = SINGLE_LABEL
) -> Iterator[tuple[str, ParameterCounts]]:
    for name in names:
        try:
            counts = _counts(address, METHODS[name](), opening)
        except InvalidStudy:
            continue
        yield name, counts


def _counts(address: str, method: Method, opening: Opening = SINGLE_LABEL) -> ParameterCounts:
    model = meta_model(address, opening=opening)
    method.check_kind(
        next(kind for kind, made in OBJECTIVES.items() if opening == (made.problem_type, made.auto_class))
    )
    if not has_head(model):
        _check_needs_no_head(method)
    ready = method.for_family(model.config.model_type)
    return count_parameters(ready.trainable(ready.attach(model)))
