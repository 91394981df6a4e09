"""Whether a run's labels can be asked for in words, which is known before anything is carried out."""

from __future__ import annotations

from afina.errors import AfinaError
from afina.models.backbone import Backbone
from afina.studies.prepared import question_of
from afina.studies.spec import RunSpec
from afina.studies.task_facts import TaskFacts, labels_of


def check_words(run: RunSpec, task: TaskFacts) -> None:
    """Raise what the run would end with where its words do not go with the task's labels, or with one another."""
    question_of(run, task, Backbone.load(run.backbone, weights=False).tokenizer)


def can_be_asked(run: RunSpec) -> bool:
    """Whether the task's labels have words that the backbone tells apart; False also where either cannot be read."""
    try:
        return question_of(run, labels_of(run), Backbone.load(run.backbone, weights=False).tokenizer).words is not None
    except AfinaError:
        return False
