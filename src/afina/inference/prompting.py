"""Prompting: what an untrained language model answers about a task's texts, template by template; and its offset, which
takes out what it answers too often, found on texts whose labels nobody has to know. Trains nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from torch import Tensor

from afina import device as devices
from afina.data.readers import splitting
from afina.data.split import Split
from afina.data.task import Task
from afina.data.tokenize import TEXT, Encoded, encode
from afina.errors import InvalidStudy
from afina.events import Says, silent
from afina.inference.predictor import logits, predictions
from afina.models import objectives
from afina.models.backbone import Backbone
from afina.models.classifier import Classifier
from afina.models.objective import Objective, Predictions
from afina.models.verbalizer import TEMPLATES, Verbalizer
from afina.repr_html import ReprCard
from afina.stats import classification
from afina.stats.comparison import compare

COMPARISON_TEXTS, EVALUATION_TEXTS = 200, 500
"""Training texts that a template is compared on, and held-out texts that the best is evaluated on, at most."""

BY = "accuracy"
"""What templates are compared by."""

LENGTH = 512
"""Tokens, with the template, where the backbone takes as many."""


@dataclass(frozen=True)
class TemplateComparison:
    """How a template does on `examples` training texts; with_offset: with a shift that their labels did not choose."""

    template: str
    accuracy: float
    with_offset: float
    examples: int

    def by(self, offset: bool) -> float:
        """The accuracy with an offset, or without."""
        return self.with_offset if offset else self.accuracy


@dataclass(frozen=True, repr=False)
class Answer(ReprCard):
    """What the untrained model answers.

    template   the one that was used, see `ask`;  usual  the one that training uses where none is given
    words      by label
    metrics    of `examples` held-out texts, the headline first
    score      whether each answer is right, bool [examples]
    compared   what else was tried, in the order given; empty where there was one template
    """

    template: str
    usual: str
    words: Mapping[str, tuple[str, ...]]
    offset: bool
    metrics: dict[str, float]
    score: np.ndarray
    compared: tuple[TemplateComparison, ...]

    def facts(self) -> dict[str, object]:
        """The facts that its repr shows."""
        return {
            "template": self.template,
            "words": tuple(f"{label}: {' '.join(given)}" for label, given in self.words.items()),
            **self.metrics,
            "held-out texts": self.examples,
            "templates compared": len(self.compared) or None,
        }

    @property
    def examples(self) -> int:
        """Held-out texts that were asked about."""
        return len(self.score)


def ask(
    backbone: Backbone,
    task: Task,
    templates: Sequence[str] = (),
    words: Mapping[str, Sequence[str]] | None = None,
    *,
    offset: bool = False,
    says: Says = silent,
) -> Answer:
    """Ask `backbone`, as it is, about a task's held-out texts, in one template.

    templates  the best of them on training texts is used. By default the one that training uses too
               (docs/background/words.md), unless another one of TEMPLATES is better on training texts by more than
               chance. One is not compared
    says       told what takes its time, when it begins
    Raises InvalidStudy, UnknownName where labels, words and templates do not go together.
    """
    objective = objectives.make(task.label_names, {"kind": task.kind})
    if not objective.can_be_asked:
        raise InvalidStudy(
            f"task {task.address}: its kind is {task.kind}, and words can answer for classes alone.",
            code="ask.kind-unsupported",
            task=task.address,
            kind=task.kind,
        )
    usual, questions = _questions(backbone, task, templates, words)
    says("opening the model")
    asking = _Asking.of(backbone, objective, questions[0])
    sample = splitting.first(task.train, COMPARISON_TEXTS, "train_examples")
    compared: tuple[TemplateComparison, ...] = ()
    right: list[np.ndarray] = []
    if len(questions) > 1:
        for number, one in enumerate(questions, start=1):
            says(f"template {number} of {len(questions)}, on {len(sample):,} training texts")
            made, scores = asking.compare(one, sample, offset=offset)
            compared, right = (*compared, made), [*right, scores]
    chosen = questions[_chosen(right, keep_first=not templates)]
    if offset:
        asking.shift(chosen, sample)
    held_out = splitting.first(task.evaluation, EVALUATION_TEXTS, "evaluation_examples")
    says(f"that template, on {len(held_out):,} held-out texts" if compared else f"{len(held_out):,} held-out texts")
    found = asking.predictions(chosen, held_out)
    return Answer(
        template=_source(chosen),
        usual=_source(usual),
        words=chosen.words or {},
        offset=offset,
        metrics=asking.objective.metrics(found),
        score=asking.objective.values(BY, found),
        compared=compared,
    )


def _chosen(right: Sequence[np.ndarray], *, keep_first: bool) -> int:
    """The place of the template with the most right answers; where the first is kept, only if it is shown to be better
    than the first. right: whether each answer in a template is, bool [examples]
    """
    if not right:
        return 0
    scores = {str(place): each[None] for place, each in enumerate(right)}
    there = set(range(len(right)))
    if keep_first:
        verdicts = compare(scores, references=("0",))
        there = {int(one.second) for one in verdicts if one.first == "0" and one.verdict == "worse"} or {0}
    return max(sorted(there), key=lambda place: right[place].mean())


def _questions(
    backbone: Backbone, task: Task, templates: Sequence[str], words: Mapping[str, Sequence[str]] | None
) -> tuple[Verbalizer, list[Verbalizer]]:
    """The one that training asks where no template is given, and those to compare."""
    pairs = task.train.pairs is not None

    def question(template: str | None) -> Verbalizer:
        names, tokenizer = task.label_names, backbone.tokenizer
        return Verbalizer.of(names, tokenizer, pairs=pairs, head="words", template=template, words=words)

    usual = question(None)
    if templates:
        return usual, [question(template) for template in dict.fromkeys(templates)]
    others = [] if pairs else [template for template in TEMPLATES if template != _source(usual)]
    return usual, [usual, *map(question, others)]


def _source(question: Verbalizer) -> str:
    return question.template.source if question.template else TEXT


@dataclass(frozen=True, eq=False)
class _Asking:
    """An untrained classifier that answers in words, whatever the template."""

    backbone: Backbone
    classifier: Classifier
    objective: Objective

    @classmethod
    def of(cls, backbone: Backbone, objective: Objective, question: Verbalizer) -> Self:
        names, opening = objective.label_names, objective.opening
        classifier = Classifier.open(backbone, names, 0, question.tokens, exact=True, opening=opening)
        return cls(backbone, classifier.to(devices.choose()), objective)

    def encoded(self, question: Verbalizer, split: Split) -> Encoded:
        tokenizer, length = self.backbone.tokenizer, min(LENGTH, self.backbone.longest)
        return encode(tokenizer, split.texts, split.pairs, max_length=length, template=question.template)

    def predictions(self, question: Verbalizer, split: Split) -> Predictions:
        return predictions(self.classifier, self.encoded(question, split), split.labels)

    def compare(self, question: Verbalizer, split: Split, *, offset: bool) -> tuple[TemplateComparison, np.ndarray]:
        """How it does, and whether each answer is right, with an offset or without."""
        found = self.predictions(question, split)
        plain, shifted = (self.objective.values(BY, each) for each in (found, shifted_by_itself(found)))
        made = TemplateComparison(_source(question), float(plain.mean()), float(shifted.mean()), len(split))
        return made, shifted if offset else plain

    def shift(self, question: Verbalizer, split: Split) -> None:
        """Let the classifier's offset be what the texts suggest."""
        self.classifier.offset = calibrated_offset(self.classifier, self.encoded(question, split))


CALIBRATION_TEXTS = 512
"""Texts that suffice: the first so many."""


def calibrated_offset(classifier: Classifier, encoded: Encoded) -> Tensor:
    """The classifier's offset, float32 [labels] on its device, with which no label has more probability than others.

    That of H. Zhou et al. 2023, "Batch calibration", https://arxiv.org/abs/2309.17249: minus the logarithm of each
    label's mean probability over the texts. It takes the labels for equally frequent.
    """
    shift = torch.from_numpy(shift_of(logits(classifier, encoded.first(CALIBRATION_TEXTS))))
    shift = shift.to(next(classifier.parameters()).device)
    return shift if classifier.offset is None else classifier.offset + shift


def shifted_by_itself(predictions: Predictions) -> Predictions:
    """Predictions with the shift that they themselves suggest."""
    return replace(predictions, outputs=predictions.outputs + shift_of(predictions.outputs))


def shift_of(outputs: np.ndarray) -> np.ndarray:
    """What is to be added to outputs like these, float32 [N, labels], for that; [labels]."""
    shift: np.ndarray = -np.log(np.maximum(classification.probabilities(outputs).mean(axis=0), 1e-12))
    return shift.astype(np.float32)
