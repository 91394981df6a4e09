"""Retention of a run: the language-model loss on neutral sentences before and after the training."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from afina.data.neutral_texts import NeutralTexts
from afina.data.task import Task
from afina.data.tokenize import Encoded, encode
from afina.models.architectures import Architecture
from afina.models.backbone import Backbone
from afina.models.classifier import Classifier
from afina.predicting.retention import SentenceLosses, check_measurable, sentence_losses
from afina.ranks import ALONE, Ranks
from afina.studies import problems
from afina.studies.runs.record import Retention
from afina.studies.runs.spec import RunSpec


def check_causal(backbone: str, architecture: Architecture) -> None:
    if architecture.is_encoder:
        raise problems.ENCODER_WITHOUT_RETENTION(family=architecture.family, backbone=backbone, option="retention")


def check_run(run: RunSpec) -> None:
    """Raise the errors that `RetentionBefore.of` would raise during the run."""
    if run.training.retention:
        check_causal(run.backbone, Backbone.load(run.backbone, weights=False).architecture)
        task = Task.load(run.task, run.data, allow_leakage=True, **run.training.cuts)
        NeutralTexts.load(run.training.retention, task)


@dataclass(frozen=True, eq=False)
class RetentionBefore:
    """Neutral sentences, and the backbone's next-token losses on them without an adapter, before the training."""

    texts: NeutralTexts
    encoded: Encoded
    losses: SentenceLosses
    ranks: Ranks = ALONE

    @classmethod
    def of(
        cls,
        run: RunSpec,
        task: Task,
        backbone: Backbone,
        classifier: Classifier,
        length: int,
        device: torch.device,
        ranks: Ranks = ALONE,
    ) -> RetentionBefore | None:
        """Measure the backbone's loss on neutral sentences if `run` asks for retention; else return None.

        `classifier` is the backbone without a method, in the precision of the run. `length`: the maximum number of
        tokens of a sentence. Raises InvalidStudy for an encoder; NotFound if the sentences or the output embedding are
        missing; InvalidData if the sentences cannot be read or the task contains one of them.
        """
        if not run.training.retention:
            return None
        check_causal(run.backbone, backbone.architecture)
        texts = NeutralTexts.load(run.training.retention, task)
        encoded = check_measurable(encode(backbone.tokenizer, texts.texts, max_length=length), texts.source)
        losses = sentence_losses(classifier.to(device), backbone, encoded, ranks)
        classifier.to("cpu")  # a method draws its weights there
        return cls(texts, encoded, losses, ranks)

    def after(self, classifier: Classifier, backbone: Backbone) -> Retention:
        found = sentence_losses(classifier, backbone, self.encoded, self.ranks)
        before, before_interval = self.losses.mean()
        after, after_interval = found.mean()
        change, change_interval = found.change_from(self.losses)
        return Retention(
            source=self.texts.source,
            texts_digest=self.texts.digest,
            sentences=len(self.encoded),
            tokens=int(found.tokens.sum()),
            before=before,
            after=after,
            change=change,
            before_interval=before_interval,
            after_interval=after_interval,
            change_interval=change_interval,
            seconds=self.losses.seconds + found.seconds,
        )
