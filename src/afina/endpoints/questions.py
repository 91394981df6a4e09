"""`EndpointQuestion`: how a model behind an API is asked about a text, and how its answer is read.

A prompt is the task's template, as for zero-shot predictions, after an instruction that lists the allowed answers. An
answer is read strictly: an answer that is not exactly one of the allowed answers is no answer. A number must be written
with a decimal point and without other text.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from afina.data.kinds import CLASSES, ENTITIES, LABELS, NUMBER, TEXT, Kind
from afina.data.label_words import are_words
from afina.data.prompts import CHAT, OTHERWISE, input_template
from afina.data.readers.cells import plain_number
from afina.data.readers.target_kinds import NO_LABELS
from afina.data.template import Template
from afina.endpoints import problems
from afina.models import problems as model_problems
from afina.models.label_prompts import complete_words, own_names, suitable

ANSWER = "answer"
"""The key of the answer in a JSON object, if the server follows a schema."""

USUAL_TOKENS = 16
"""An estimate of the tokens of an answer that is a label, some labels or a number, with the braces of JSON."""

NUMBER_TEMPLATE, NUMBER_TEMPLATE_PAIR = "Text: {text}\nNumber:", "First: {text}\nSecond: {text_pair}\nNumber:"


@dataclass(frozen=True)
class EndpointQuestion(ABC):
    """How a model is asked about the texts of a task; for each kind of task, a subclass.

    Attributes:
        one_line: Whether an answer has one line, and is no answer if it is cut.
        label_names: The task's label names; for a number and a text, the name of the target.
        words: The words that a model may answer, by label name; without surrounding white space.
    """

    kind: ClassVar[Kind]
    one_line: ClassVar[bool] = True

    template: Template
    label_names: tuple[str, ...]
    words: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        kind: Kind,
        label_names: Sequence[str],
        *,
        pairs: bool,
        columns: Mapping[str, str] | None = None,
        template: str | None = None,
        words: Mapping[str, Sequence[str]] | None = None,
    ) -> EndpointQuestion:
        """Return the question of a task.

        Args:
            pairs: Whether the task has pairs of texts.
            columns: The names of the task's columns by role, which select the default template of a text-to-text task.
            template: The template around a text. None: the template that zero-shot predictions have by default.
            words: Label words by label name. None: the label names.

        Raises InvalidStudy if template, label names and words contradict each other, or labels need words; and
        UnknownName if `words` has a label that the task does not have.
        """
        if template == CHAT:
            raise problems.TEMPLATE_OF_TOKENIZER(expected=OTHERWISE)
        made = QUESTIONS[kind]
        chosen = made.chosen_template(template, tuple(label_names), columns or {}, pairs=pairs)
        return made(chosen, tuple(label_names), made.chosen_words(tuple(label_names), words))

    @classmethod
    @abstractmethod
    def chosen_template(
        cls, given: str | None, label_names: tuple[str, ...], columns: Mapping[str, str], *, pairs: bool
    ) -> Template:
        """Return the template around a text. Raises InvalidStudy."""

    @classmethod
    def chosen_words(
        cls, label_names: tuple[str, ...], given: Mapping[str, Sequence[str]] | None
    ) -> Mapping[str, tuple[str, ...]]:
        """Return the allowed words by label name. Raises InvalidStudy or UnknownName."""
        if given:
            raise problems.WORDS_NEEDLESS(kind=cls.kind)
        return {}

    @property
    @abstractmethod
    def instruction(self) -> str:
        """The sentence before the prompt, or ""."""

    @property
    @abstractmethod
    def answer_schema(self) -> dict[str, Any] | None:
        """The JSON schema of an answer; None: the answer is plain text."""

    @property
    def response_format(self) -> dict[str, Any] | None:
        """The setting `response_format` of a chat, for a server that follows JSON schemas."""
        inner = self.answer_schema
        if inner is None:
            return None
        schema = {"type": "object", "properties": {ANSWER: inner}, "required": [ANSWER], "additionalProperties": False}
        return {"type": "json_schema", "json_schema": {"name": ANSWER, "strict": True, "schema": schema}}

    def prompt(self, text: str, pair: str | None = None, template: Template | None = None) -> str:
        """Return the whole prompt of a text; `template` may have examples before the text."""
        head = f"{self.instruction}\n\n" if self.instruction else ""
        return head + (template or self.template).render(text, pair)

    def read(self, written: str) -> Any | None:
        """Return the answer in what a model wrote, as `Objective.of_answers` takes it; None: there is no answer.

        A JSON object with the only key `answer` is read as its value. White space around an answer, and a full stop
        after it, count as absent.
        """
        found = _in_object(written) if self.answer_schema is not None else None
        return self.read_plain(written.strip()) if found is None else self.read_value(found)

    def usual_tokens(self, targets: np.ndarray) -> int:
        """Return an estimate of the tokens of an answer, by the targets of the texts."""
        return USUAL_TOKENS

    @abstractmethod
    def read_plain(self, written: str) -> Any | None:
        """Return the answer in plain text without surrounding white space; None: there is no answer."""

    def read_value(self, value: Any) -> Any | None:
        """Return the answer in a JSON value; None: there is no answer."""
        return self.read_plain(value.strip()) if isinstance(value, str) else None


def _in_object(written: str) -> Any | None:
    """Return the value of `answer` in a JSON object that has no other key; None: `written` is no such object."""
    if not written.lstrip().startswith("{"):
        return None
    try:
        found = json.loads(written)
    except (ValueError, RecursionError):
        return None
    return found[ANSWER] if isinstance(found, dict) and list(found) == [ANSWER] else None


def _compared(word: str) -> str:
    """Return the form in which words are compared: without white space around, a full stop at the end, and case."""
    return word.strip().removesuffix(".").rstrip().casefold()


class LabelQuestion(EndpointQuestion):
    """A question whose answers are words of labels."""

    @classmethod
    def chosen_template(
        cls, given: str | None, label_names: tuple[str, ...], columns: Mapping[str, str], *, pairs: bool
    ) -> Template:
        made = Template(suitable(label_names, pairs=pairs) if given is None else given)
        made.check_pairs(pairs)
        made.check_fields()
        return made

    @classmethod
    def chosen_words(
        cls, label_names: tuple[str, ...], given: Mapping[str, Sequence[str]] | None
    ) -> Mapping[str, tuple[str, ...]]:
        if not given and not are_words(label_names):
            raise model_problems.LABELS_ARE_NO_WORDS(labels=label_names)
        chosen = complete_words(given or own_names(label_names), label_names)
        words = {name: tuple(dict.fromkeys(word.strip() for word in each)) for name, each in chosen.items()}
        owners: dict[str, str] = {}
        for name, each in words.items():
            for word in each:
                if (earlier := owners.setdefault(_compared(word), name)) != name:
                    raise problems.LABEL_WORDS_ALIKE(word=word, earlier=earlier, label=name)
        return words

    @property
    def allowed(self) -> list[str]:
        return [word for each in self.words.values() for word in each]

    def label(self, written: str) -> int | None:
        """Return the index of the label for which a word stands, regardless of case; None: no label."""
        plain = _compared(written)
        for index, name in enumerate(self.label_names):
            if plain in map(_compared, self.words[name]):
                return index
        return None


class ClassQuestion(LabelQuestion):
    """A question for one of several classes."""

    kind = CLASSES

    @property
    def instruction(self) -> str:
        return f"Answer with one of these words and nothing else: {', '.join(self.allowed)}."

    @property
    def answer_schema(self) -> dict[str, Any]:
        return {"type": "string", "enum": self.allowed}

    def read_plain(self, written: str) -> int | None:
        return self.label(written)


class LabelsQuestion(LabelQuestion):
    """A question for any number of labels of a text."""

    kind = LABELS

    @classmethod
    def chosen_words(
        cls, label_names: tuple[str, ...], given: Mapping[str, Sequence[str]] | None
    ) -> Mapping[str, tuple[str, ...]]:
        """Return words without commas, which separate labels, and without the word for no label."""
        words = super().chosen_words(label_names, given)
        for name, each in words.items():
            for word in each:
                if "," in word:
                    raise problems.LABEL_WORD_RESERVED(word=word, label=name, reason="has a comma")
                if word.casefold() == NO_LABELS:
                    raise problems.LABEL_WORD_RESERVED(word=word, label=name, reason="is the answer for no label")
        return words

    @property
    def instruction(self) -> str:
        return (
            "Answer with all of these words that fit, separated by commas, and nothing else: "
            f"{', '.join(self.allowed)}. Answer {NO_LABELS} if no word fits."
        )

    @property
    def answer_schema(self) -> dict[str, Any]:
        return {"type": "array", "items": {"type": "string", "enum": self.allowed}}

    def read_plain(self, written: str) -> list[int] | None:
        if written.removesuffix(".").casefold() == NO_LABELS:
            return []
        return self._labels(written.split(","))

    def read_value(self, value: Any) -> list[int] | None:
        if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
            return None
        return self._labels(value)

    def _labels(self, written: Sequence[str]) -> list[int] | None:
        found = [self.label(word) for word in written]
        return None if None in found else sorted({index for index in found if index is not None})


class NumberQuestion(EndpointQuestion):
    """A question for a number."""

    kind = NUMBER

    @classmethod
    def chosen_template(
        cls, given: str | None, label_names: tuple[str, ...], columns: Mapping[str, str], *, pairs: bool
    ) -> Template:
        usual = NUMBER_TEMPLATE_PAIR if pairs else NUMBER_TEMPLATE
        made = Template(usual if given is None else given)
        made.check_pairs(pairs)
        made.check_fields()
        return made

    @property
    def instruction(self) -> str:
        return f"Answer with a number and nothing else: {self.label_names[0]}."

    @property
    def answer_schema(self) -> dict[str, Any]:
        return {"type": "number"}

    def read_plain(self, written: str) -> float | None:
        return plain_number(written.removesuffix("."))

    def read_value(self, value: Any) -> float | None:
        """Return the number; a JSON string is none, because the schema asks for a number."""
        return None if isinstance(value, str) else plain_number(value)


class TextQuestion(EndpointQuestion):
    """A question whose answer is a text: the template alone, as an adapter gets it."""

    kind = TEXT
    one_line = False

    @classmethod
    def chosen_template(
        cls, given: str | None, label_names: tuple[str, ...], columns: Mapping[str, str], *, pairs: bool
    ) -> Template:
        return input_template(given, columns, pairs=pairs)

    @property
    def instruction(self) -> str:
        return ""

    @property
    def answer_schema(self) -> None:
        return None

    def usual_tokens(self, targets: np.ndarray) -> int:
        return round(float(np.mean([len(references[0]) for references in targets])) / 4)

    def read_plain(self, written: str) -> str | None:
        return written or None


class EntityQuestion(EndpointQuestion):
    """No question: an answer in words does not say which of several equal parts of a text an entity is."""

    kind = ENTITIES

    @classmethod
    def chosen_template(
        cls, given: str | None, label_names: tuple[str, ...], columns: Mapping[str, str], *, pairs: bool
    ) -> Template:
        """Raise InvalidStudy, because models behind an API are not asked for entities."""
        raise problems.ENTITIES_NOT_ASKED(kind=cls.kind)


QUESTIONS: Mapping[str, type[EndpointQuestion]] = {
    made.kind: made for made in (ClassQuestion, NumberQuestion, LabelsQuestion, TextQuestion, EntityQuestion)
}
"""The questions by kind of task."""
