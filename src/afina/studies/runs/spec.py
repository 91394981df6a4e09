"""`RunSpec`: the description of a run: backbone, task, method, hyperparameters, data, training and seed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cached_property
from typing import Any, Literal, Self

from pydantic import Field

from afina import digest
from afina.data.readers.frames import is_frame
from afina.data.reading_options import USUAL, ReadingOptions
from afina.data.task import Task, as_address
from afina.methods import METHODS, asks_endpoint, make
from afina.models.decoding import GREEDY, Decoding
from afina.repr_html import ReprCard
from afina.schema import Frozen
from afina.studies import problems
from afina.training.settings import NO_EFFECT, Training


class Ask(Frozen):
    r"""The prompt template, the label words and the start of the head: the section [ask] of a study file.

    Attributes:
        head: The weights with which the classification head starts. "random" means random weights. "words" means the
            output embeddings of the labels' words (a verbalizer), so that training begins at the language model's own
            answer. "auto" means "words" if the labels are words whose first tokens differ
            (`afina.models.verbalizer`), else "random".
        template: The prompt around each text, such as "Review: {text}\nSentiment:"; "{text}" is the text alone. If
            `template` is None, the prompt is a template that suits the labels if the head starts from words, and
            otherwise the text alone.
        words: The words of each label, by label, with a leading space if the tokenizer needs it. None: the word of a
            label is the label's name.
        offset: Whether an offset is added to each label's logit, so that all labels are equally probable on average
            over the training texts (batch calibration). The labels of the training texts are not used.
    """

    head: Literal["auto", "random", "words"] = "auto"
    template: str | None = None
    words: dict[str, tuple[str, ...]] | None = None
    offset: bool = False


UNASKED = Ask(head="random")
"""The prompt settings without a prompt: a random head, and each text without a template."""


_NO_EFFECT = {
    "data": {"allow_leakage", "unlabelled", "without"},
    "training": set(NO_EFFECT),
    **dict.fromkeys(("name", "metric", "send_texts"), True),
    "teacher": {"path"},
}
"""The fields of `RunSpec` that do not change the result; runs that differ only in these fields have the same key."""


def with_address(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a run or a study, in which a `Task` object is replaced by its address and reading options.

    Raises InvalidData for a `Task` without an address, or of other reading options than `data`.
    """
    task, data = fields.get("task"), fields.get("data")
    if isinstance(task, os.PathLike) or is_frame(task):
        return {**fields, "task": as_address(task)}
    if not isinstance(task, Task):
        return dict(fields)
    if task.data is None:
        raise problems.TASK_MADE_BY_HAND(task=task.address, argument="task", found="Task")
    own = data.given if isinstance(data, ReadingOptions) else dict(data or {})
    read = task.data.given
    twice = [name for name in own if name in read and own[name] != read[name]]
    if twice:
        raise problems.TASK_READ_OTHERWISE(
            expected=read[twice[0]], found=own[twice[0]], task=task.address, option=twice[0]
        )
    return {**fields, "task": task.address, "data": {**read, **own}}


class Teacher(Frozen):
    """The adapter from whose outputs a run learns (Hinton et al. 2015).

    `run` is the key of a teacher that the same study trains, `adapter` the digest of one that was trained before. ""
    as `path`: the teacher's run has not been executed yet.
    """

    run: str | None = None
    adapter: str | None = None
    path: str = ""


class RunSpec(ReprCard, Frozen):
    """The description of one training and evaluation.

    Attributes:
        name: The run's name in tables. Default: the method's key.
        metric: The headline metric, which also scores tuning trials. None: the default metric of the task or its kind.
        data_digest: The digest of the contents of the task's files (`Task.data_digest`), so that a run on changed files
            has another key. None if the address identifies the texts, as for packaged data and data on the Hub.
        unlabelled_digest: The same for the file of texts without labels.
        without_digest: The same for the file of rows that are left out of the training texts.
        backbone_files: The same for the backbone's directory (`backbone_spec.files_digest`).
        send_texts: Whether the user allows the run to send texts to the endpoint that its method asks. No file has this
            permission.
    """

    backbone: str
    task: str
    method: str
    hyperparameters: dict[str, Any] = Field(default_factory=dict)
    data: ReadingOptions = USUAL
    training: Training = Training()
    ask: Ask = Ask()
    generate: Decoding = GREEDY
    seed: int = 0
    name: str = ""
    metric: str | None = None
    data_digest: str | None = None
    backbone_files: str | None = None
    teacher: Teacher | None = None
    unlabelled_digest: str | None = None
    without_digest: str | None = None
    send_texts: bool = False

    def facts(self) -> dict[str, object]:
        return {
            "name": self.title,
            "method": self.method if self.name else None,
            "seed": self.seed,
            "backbone": self.backbone,
            "task": self.task,
            "hyperparameters": tuple(f"{key} {value}" for key, value in self.hyperparameters.items()),
            "training": tuple(f"{key} {value}" for key, value in self.training.non_defaults().items()),
        }

    @cached_property
    def key(self) -> str:
        """The key of the run: the digest of those fields that differ from their defaults and can change the result."""
        made = make(self.method, self.hyperparameters)
        changed = {name: value for name, value in made.non_defaults.items() if name not in made.no_effect}
        effective = self.model_copy(update={"ask": self.asked, "hyperparameters": changed})
        return digest.of_settings(effective.non_defaults(without=_NO_EFFECT))

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a changed copy without the cached key."""
        copied = super().model_copy(update=update, deep=deep)
        copied.__dict__.pop("key", None)
        return copied

    def with_digests(self, **digests: str | None) -> Self:
        """Return a copy with these digests of its inputs, on which the key depends."""
        changed = {name: digest for name, digest in digests.items() if getattr(self, name) != digest}
        return self.model_copy(update=changed) if changed else self

    @property
    def distils(self) -> bool:
        return self.teacher is not None and self.training.distil_weight > 0

    @property
    def asked(self) -> Ask:
        """The prompt settings, with the head that the method prescribes, if any (`Method.head`)."""
        head = METHODS[self.method].head if self.method in METHODS else None
        if head == "random":
            return UNASKED
        return self.ask.model_copy(update={"head": head}) if head else self.ask

    @property
    def asks_endpoint(self) -> bool:
        """Whether a model behind an API answers the texts, so that `backbone` is never opened."""
        return asks_endpoint(self.method)

    @property
    def title(self) -> str:
        return self.name or self.method

    @property
    def label(self) -> str:
        """The name of the run's files, without extension."""
        return f"{self.title}-seed{self.seed}-{self.key.removeprefix(digest.PREFIX)[:8]}"
