"""Prompting: zero-shot predictions of an untrained language model for the texts of a task, with several templates.

An offset that is added to the logits corrects labels that the model predicts too often; the offset is estimated on
texts without their labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from afina import device as devices
from afina.data.batch import by_length
from afina.data.readers import splitting
from afina.data.split import Split
from afina.data.task import Task
from afina.data.template import TEXT, Template
from afina.data.tokenize import Encoded, Tokenizer, encode
from afina.events import Says, silent
from afina.methods import make
from afina.methods.attachment import attach
from afina.models import objectives
from afina.models.architectures import check_can_be_asked
from afina.models.backbone import Backbone
from afina.models.classifier import Classifier
from afina.models.label_prompts import TEMPLATES, named_labels
from afina.models.objective import Objective
from afina.models.predictions import Predictions
from afina.models.verbalizer import Verbalizer
from afina.predicting import problems
from afina.predicting.predictor import logits
from afina.ranks import ALONE, Ranks
from afina.repr_html import ReprCard
from afina.stats import classification
from afina.stats.comparison import compare

COMPARISON_TEXTS, EVALUATION_TEXTS = 200, 500
"""Maximum number of training texts for comparing templates, and of held-out texts for evaluating the best one."""

BY = "accuracy"
"""Name of the metric by which templates are compared."""

LENGTH = 512
"""Maximum length of a text in tokens, including the template; less if the backbone takes fewer tokens."""


@dataclass(frozen=True)
class TemplateComparison:
    """The accuracy of a template on `examples` training texts, without and with an offset estimated without labels."""

    template: str
    accuracy: float
    with_offset: float
    examples: int

    def by(self, offset: bool) -> float:
        return self.with_offset if offset else self.accuracy


@dataclass(frozen=True, repr=False)
class Answer(ReprCard):
    """The zero-shot predictions of an untrained model.

    Attributes:
        template: The prompt template that was used for the held-out texts.
        usual: The prompt template that training uses by default.
        words: Label words by label name.
        offset: Whether an offset was added to the logits.
        metrics: Metrics on `examples` held-out texts by name, the main one first.
        score: Whether each prediction is right, bool [examples].
        compared: The accuracy of each compared template, in order; empty if there was only one template.
    """

    template: str
    usual: str
    words: Mapping[str, tuple[str, ...]]
    offset: bool
    metrics: dict[str, float]
    score: np.ndarray
    compared: tuple[TemplateComparison, ...]

    def facts(self) -> dict[str, object]:
        return {
            "template": self.template,
            "words": tuple(f"{label}: {' '.join(given)}" for label, given in self.words.items()),
            **self.metrics,
            "held-out texts": self.examples,
            "templates compared": len(self.compared) or None,
        }

    @property
    def examples(self) -> int:
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
    """Predict the held-out texts of a task zero-shot with `backbone`, in the best of several templates.

    Args:
        templates: Templates to compare on training texts; the best is used. A single template is used without a
            comparison. If `templates` is empty, training's default template is used (docs/background/words.md), unless
            another of TEMPLATES is significantly better on training texts.
        words: Label words by label name. None: the label names. An encoder compares texts with them.
        offset: Whether to add an offset to the logits, estimated on training texts without their labels.
        says: Function that receives a sentence before each slow step.

    Raises InvalidStudy if labels, label words and templates do not fit together, and UnknownName if `words` has a label
    that the task does not have.
    """
    objective = objectives.make(task.label_names, {"kind": task.kind})
    if not objective.can_be_asked:
        raise problems.ASK_KIND(task=task.address, kind=task.kind)
    if offset or task.train.pairs is not None:
        check_can_be_asked(backbone.architecture, f"backbone {backbone.address}")
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
        words=chosen.words or chosen.label_texts or {},
        offset=offset,
        metrics=asking.objective.metrics(found),
        score=asking.objective.values(BY, found),
        compared=compared,
    )


def _chosen(right: Sequence[np.ndarray], *, keep_first: bool) -> int:
    """Return the index of the template with the most right answers (bool [examples] for each template).

    `keep_first`: 0, unless another template is significantly better than the first template.
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
    """Return the verbalizer that training uses by default, and the verbalizers to compare."""
    pairs = task.train.pairs is not None
    if backbone.architecture.is_encoder:
        compared = named_labels(task.label_names, words)
        made = [Verbalizer(Template(one), label_texts=compared) for one in templates or (TEXT,)]
        return Verbalizer(label_texts=compared), made

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
    """An untrained classifier whose head is made of the label words; it works with any template."""

    backbone: Backbone
    classifier: Classifier
    objective: Objective

    @classmethod
    def of(cls, backbone: Backbone, objective: Objective, question: Verbalizer) -> Self:
        names, opening = objective.output_names, objective.opening
        classifier = Classifier.open(backbone, names, 0, question.tokens, exact=True, opening=opening)
        classifier.to(devices.choose())
        if question.label_texts is not None:
            attach(classifier, make("zero-shot").for_backbone(backbone))
            given = question.label_texts, backbone.tokenizer, min(LENGTH, backbone.longest)
            compare_with_label_texts(classifier, *encoded_label_texts(*given))
        return cls(backbone, classifier, objective)

    def encoded(self, question: Verbalizer, split: Split) -> Encoded:
        tokenizer, length = self.backbone.tokenizer, min(LENGTH, self.backbone.longest)
        return encode(tokenizer, split.texts, split.pairs, max_length=length, template=question.template)

    def predictions(self, question: Verbalizer, split: Split) -> Predictions:
        return Predictions(logits(self.classifier, self.encoded(question, split)), split.labels)

    def compare(self, question: Verbalizer, split: Split, *, offset: bool) -> tuple[TemplateComparison, np.ndarray]:
        """Return a template's accuracies on a split, and whether each answer is right (with or without the offset)."""
        found = self.predictions(question, split)
        plain, shifted = (self.objective.values(BY, each) for each in (found, shifted_by_itself(found)))
        made = TemplateComparison(_source(question), float(plain.mean()), float(shifted.mean()), len(split))
        return made, shifted if offset else plain

    def shift(self, question: Verbalizer, split: Split) -> None:
        """Set the classifier's offset to the offset that is estimated on the texts of `split`."""
        self.classifier.offset = calibrated_offset(self.classifier, self.encoded(question, split))


SHARPNESS = 20.0
"""The number by which cosine similarities are multiplied to be logits. On eight tasks, the log loss without labelled
texts was lowest with 30 on `bge` and with 15 on `minilm` (docs/background/words.md)."""


def encoded_label_texts(
    given: Mapping[str, Sequence[str]], tokenizer: Tokenizer, length: int
) -> tuple[Encoded, np.ndarray]:
    """Return the tokens of all texts of labels, without a template, and the index of each text's label, int64 [N]."""
    owners = np.repeat(np.arange(len(given)), [len(texts) for texts in given.values()])
    return encode(tokenizer, [text for texts in given.values() for text in texts], max_length=length), owners


@torch.no_grad()
def compare_with_label_texts(classifier: Classifier, encoded: Encoded, owners: np.ndarray) -> None:
    """Set the head's rows so that logits are cosine similarities to the mean features of each label's texts."""
    classifier.eval()
    last = classifier.output_layer
    features = torch.zeros(len(encoded), last.in_features, device=last.weight.device)
    for indices, packed in by_length(encoded):
        features[torch.from_numpy(indices)] = classifier.head_input(packed.to(last.weight.device))
    means = [features[torch.from_numpy(owners == label)].mean(0) for label in range(len(last.weight))]
    last.weight.copy_(SHARPNESS * normalize(torch.stack(means)))
    if last.bias is not None:
        last.bias.zero_()


CALIBRATION_TEXTS = 512
"""Maximum number of texts on which the offset of the logits is estimated."""


def calibrated_offset(classifier: Classifier, encoded: Encoded, ranks: Ranks = ALONE) -> Tensor:
    """Return the offset of the logits for which all labels have the same mean probability, float32 [labels].

    The offset is that of "batch calibration" (Zhou et al. 2023, https://arxiv.org/abs/2309.17249). It assumes that the
    labels are equally frequent.
    """
    read = encoded.first(CALIBRATION_TEXTS)
    made = ranks.of_shares(read.lengths, lambda start, stop: logits(classifier, read.part(start, stop)))
    shift = torch.from_numpy(shift_of(np.concatenate(made)))
    shift = shift.to(next(classifier.parameters()).device)
    return shift if classifier.offset is None else classifier.offset + shift


def shifted_by_itself(predictions: Predictions) -> Predictions:
    """Return the predictions after adding the offset that is estimated on the same predictions."""
    return replace(predictions, outputs=predictions.outputs + shift_of(predictions.outputs))


def shift_of(outputs: np.ndarray) -> np.ndarray:
    """Return what calibration adds to logits [N, labels]: minus the log of mean probabilities, float32 [labels]."""
    shift: np.ndarray = -np.log(np.maximum(classification.probabilities(outputs).mean(axis=0), 1e-12))
    return shift.astype(np.float32)
