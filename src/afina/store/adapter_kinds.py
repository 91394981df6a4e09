"""Everything in the store that depends on the kind of task (classes, number, labels, text, entities).

For each kind of task, a class says how the predictions of two adapters are compared and what a model card contains.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

from afina.data.entities import tag_names
from afina.data.kinds import CLASSES, ENTITIES, LABELS, NUMBER, TEXT
from afina.data.words import WORD
from afina.models import objectives
from afina.models.decoding import Decoding
from afina.models.manifest import Manifest
from afina.repr_html import figure
from afina.stats.answered import Answered
from afina.stats.entity_alignment import changed_entities, count_changes
from afina.stats.text import token_f1_values


class Changes(NamedTuple):
    """How many predictions of two adapters differ, and by how much; fields that do not apply to a kind are None.

    `entities` is the number of entities that changed in each way (`stats.entity_alignment.CHANGES`).
    """

    flipped: int | None = None
    right_to_wrong: int | None = None
    wrong_to_right: int | None = None
    wrong_to_wrong: int | None = None
    mean_change: float | None = None
    entities: Mapping[str, int] | None = None


class AdapterKind(ABC):
    """A kind of task, such as regression: how predictions are compared and what a model card contains.

    Attributes:
        title: what a model card calls an adapter of this kind, such as "A text classifier".
        pipeline_tag: the pipeline tag of this kind on the Hub, such as "text-classification".
        auto_class: the auto class of transformers that opens the backbone.
        labels: the text above the list of labels in a model card.
        heading: the heading above the list of labels in a model card.
        by_label: whether the outputs of two adapters are matched by the names of the labels.
        headline: the metrics that are shown first; the other metrics follow in the order of the manifest.
        generates: whether an adapter of this kind generates text from a prompt template.
        decodes: whether the Python code in a model card decodes the outputs as afina does.
        long_texts: what users of other libraries have to do with a text of more than `{most}` tokens.
    """

    title: ClassVar[str] = "A text classifier"
    pipeline_tag: ClassVar[str] = "text-classification"
    auto_class: ClassVar[str] = "AutoModelForSequenceClassification"
    labels: ClassVar[str]
    heading: ClassVar[str] = "Labels"
    by_label: ClassVar[bool]
    headline: ClassVar[Sequence[str]] = ()
    generates: ClassVar[bool] = False
    decodes: ClassVar[bool] = False
    long_texts: ClassVar[str] = "cut each text to {most:,} tokens"

    def base(self, address: str, outputs: int) -> str:
        """Return the Python expression in a model card that opens the backbone with transformers.

        Args:
            address: the first arguments of `from_pretrained`.
            outputs: the number of the model's outputs.
        """
        return f"{self.auto_class}.from_pretrained({address}, num_labels={outputs})"

    def place(self, metric: str) -> int:
        """Return the sort key that puts the metrics in `headline` before all other metrics."""
        return self.headline.index(metric) if metric in self.headline else len(self.headline)

    def named(self, names: Sequence[str]) -> Sequence[str]:
        """Return the lines of a model card's numbered list of labels; empty if predictions are not labels."""
        return names

    @property
    def imports(self) -> str:
        """The names that the Python code in a model card imports from transformers, separated by commas."""
        return self.auto_class

    def answering(self, manifest: Manifest, directory: str) -> str:
        """Return the Python code in a model card that prints the answer to a text; "" if it does not `decode`.

        Args:
            directory: the arguments of `from_pretrained` for the tokenizer.
        """
        return ""

    @abstractmethod
    def changes(self, first: Answered, second: Answered, both: np.ndarray) -> Changes:
        """Return how many predictions of two adapters for the same texts differ, and by how much.

        `both`: whether both adapters answer a text, bool [N]; only these texts count.
        """

    @abstractmethod
    def changed(self, first: Answered, second: Answered, both: np.ndarray) -> Sequence[int]:
        """Return the indices of the texts for which two adapters' predictions differ, the most important first.

        `both`: as in `changes`.
        """

    @abstractmethod
    def right(self, answered: Answered) -> np.ndarray:
        """Return whether each prediction is right, bool [N]."""

    @abstractmethod
    def json_value(self, value: Any, names: Sequence[str]) -> Any:
        """Return a target or a prediction of this kind of task as a JSON value."""

    def in_words(self, value: Any, text: str) -> str:
        """Return a JSON value of `json_value`, a prediction for `text`, as a user reads it in a line."""
        return str(value)


class _ByLabel(AdapterKind):
    """A kind of task whose predictions are right or wrong; a multi-label prediction is right if every label is."""

    by_label = True

    def changes(self, first: Answered, second: Answered, both: np.ndarray) -> Changes:
        return _counted(_right(first), _right(second), _flipped(first, second) & both)

    def changed(self, first: Answered, second: Answered, both: np.ndarray) -> Sequence[int]:
        """Return the indices of the texts whose predictions differ; texts that were right and are wrong come first."""
        lost, flipped = _right(first) & ~_right(second), _flipped(first, second) & both
        return sorted(map(int, np.flatnonzero(flipped)), key=lambda index: (not lost[index], index))

    def right(self, answered: Answered) -> np.ndarray:
        return _right(answered)


class _Classes(_ByLabel):
    """Single-label classification."""

    labels = "One of these labels for each text, in the order of the model's outputs:"

    def json_value(self, value: Any, names: Sequence[str]) -> Any:
        return names[int(value)]


class _Labels(_ByLabel):
    """Multi-label classification."""

    labels = "Any number of these labels for each text, in the order of the model's outputs:"

    def json_value(self, value: Any, names: Sequence[str]) -> Any:
        return tuple(name for name, has in zip(names, value, strict=True) if has)


class _Number(AdapterKind):
    """Regression: a number in the unit of the targets. The only label is the name of the number."""

    labels = "A number for each text:"
    by_label = False

    def changes(self, first: Answered, second: Answered, both: np.ndarray) -> Changes:
        return Changes(mean_change=float(_size(first, second)[both].mean()))

    def right(self, answered: Answered) -> np.ndarray:
        return _right(answered)

    def changed(self, first: Answered, second: Answered, both: np.ndarray) -> Sequence[int]:
        """Return the indices of the texts whose predicted numbers differ, the largest differences first."""
        size = np.where(both, _size(first, second), 0)
        return [int(index) for index in np.argsort(-size, kind="stable") if size[index] > 0]

    def json_value(self, value: Any, names: Sequence[str]) -> Any:
        return float(value)


class _Text(AdapterKind):
    """Text-to-text. An answer is right if it equals a reference."""

    title = "A text generator"
    pipeline_tag = "text-generation"
    auto_class = "AutoModelForCausalLM"
    labels = "A text for each text."
    heading = "Answers"
    generates = True
    decodes = True
    long_texts = "cut the text so that the prompt has at most {most:,} tokens"
    by_label = False
    headline = ("rouge_l", "bleu", "token_f1", "loss")

    def base(self, address: str, outputs: int) -> str:
        return f"{self.auto_class}.from_pretrained({address})"

    def named(self, names: Sequence[str]) -> Sequence[str]:
        """Return no lines, because the only label of this kind is the name of the target column."""
        return ()

    @property
    def imports(self) -> str:
        return f"{self.auto_class}, AutoTokenizer"

    def answering(self, manifest: Manifest, directory: str) -> str:
        """Return the Python code in a model card that fills the prompt template and generates an answer.

        The code uses the decoding settings of the adapter.
        """
        settings = manifest.objective or {}
        decoding, template = Decoding(**settings.get("decoding", {})), manifest.template or "{text}"
        given = decoding.for_transformers(settings.get("answer_tokens"))
        given |= {"stop_strings": list(decoding.stop), "tokenizer": _Name("tokenizer")} if decoding.stop else {}
        told = ", ".join(f"{name}={value!r}" for name, value in given.items())
        pair = '.replace("{text_pair}", "a second text")' if "{text_pair}" in template else ""
        special = ", add_special_tokens=False" if settings.get("chat") else ""
        return "\n".join(
            (
                f"tokenizer = AutoTokenizer.from_pretrained({directory})",
                f'prompt = {template!r}.replace("{{text}}", "a text"){pair}',
                f'tokens = tokenizer(prompt, return_tensors="pt"{special})',
                "end = tokenizer.eos_token_id",
                f"answer = model.generate(**tokens, {told}, eos_token_id=end, pad_token_id=end)",
                'answer = answer[0, tokens["input_ids"].shape[1] :]',
                "print(tokenizer.decode(answer, skip_special_tokens=True).strip())",
            )
        )

    def changes(self, first: Answered, second: Answered, both: np.ndarray) -> Changes:
        return _counted(_among(first), _among(second), (first.answers != second.answers) & both)

    def changed(self, first: Answered, second: Answered, both: np.ndarray) -> Sequence[int]:
        """Return the indices of texts to which two adapters give different answers, largest loss of token F1 first."""
        gain, flipped = token_f1_values(second) - token_f1_values(first), (first.answers != second.answers) & both
        return sorted(map(int, np.flatnonzero(flipped)), key=lambda index: (gain[index], index))

    def right(self, answered: Answered) -> np.ndarray:
        """Return whether each answer equals one of its text's references, bool [N]."""
        return _among(answered)

    def json_value(self, value: Any, names: Sequence[str]) -> Any:
        return value if isinstance(value, str) else list(value)


class _Entities(AdapterKind):
    """Token classification. A prediction is right if all entities of the text are found, and no others."""

    title = "A token classifier"
    pipeline_tag = "token-classification"
    auto_class = "AutoModelForTokenClassification"
    labels = (
        "A tag for each word, in the order of the model's outputs: O is no entity; B- begins one; I- goes on with it."
    )
    heading = "Labels"
    by_label = True
    headline = ("entity_f1", "entity_precision", "entity_recall")
    decodes = True
    long_texts = (
        "divide a text of more than {most:,} tokens into windows that overlap, and read each word in the window in "
        "which the word is farthest from a border"
    )

    @property
    def imports(self) -> str:
        return f"{self.auto_class}, AutoTokenizer"

    def answering(self, manifest: Manifest, directory: str) -> str:
        """Return the Python code in a model card that prints the entities of a text with their places."""
        asked = objectives.make(manifest.label_names, manifest.objective)
        path = _VITERBI if (asked.settings or {}).get("viterbi", True) else _GREEDY
        return _FINDING.format(
            pattern=WORD, tags=list(tag_names(manifest.label_names)), directory=directory, decoding=path
        )

    def named(self, names: Sequence[str]) -> Sequence[str]:
        return tag_names(names)

    def changes(self, first: Answered, second: Answered, both: np.ndarray) -> Changes:
        found = _counted(_right(first), _right(second), _flipped(first, second) & both)
        pairs = zip(first.answers[both], second.answers[both], strict=True)
        return found._replace(entities=count_changes(changed_entities(*pair) for pair in pairs))

    def changed(self, first: Answered, second: Answered, both: np.ndarray) -> Sequence[int]:
        """Return the indices of the texts whose entities differ.

        Texts that were right and are wrong come first, and then those of which most entities changed.
        """
        lost, flipped = _right(first) & ~_right(second), np.flatnonzero(_flipped(first, second) & both).tolist()
        count = {place: len(changed_entities(first.answers[place], second.answers[place])) for place in flipped}
        return sorted(flipped, key=lambda place: (not lost[place], -count[place], place))

    def right(self, answered: Answered) -> np.ndarray:
        return _right(answered)

    def json_value(self, value: Any, names: Sequence[str]) -> Any:
        return [{"start": start, "end": end, "label": label} for start, end, label in value]

    def in_words(self, value: Any, text: str) -> str:
        found = [f"{text[one['start'] : one['end']]} ({one['label']})" for one in value]
        return ", ".join(found) or "none"


_FINDING = """\
import regex
import torch

tags = {tags!r}
tokenizer = AutoTokenizer.from_pretrained({directory})
text = "a text"
tokens = tokenizer(text, return_offsets_mapping=True, return_tensors="pt")
offsets = tokens.pop("offset_mapping")[0].tolist()
offsets = [(end - len(text[start:end].lstrip()), end) for start, end in offsets]
with torch.no_grad():
    logits = model.eval()(**tokens).logits[0].double()
words = [match.span() for match in regex.finditer({pattern!r}, text)]

# The tag of a word is read at its first token. A word without a token of its own continues the word before it.
rows, before = [], 0
for start, end in words:
    own = [place for place, (low, high) in enumerate(offsets) if before <= low < end and start < high and low < high]
    if own:
        rows.append(logits[own[0]])
    elif not rows:
        rows.append(torch.tensor([0.0] + [-30.0] * (len(tags) - 1)))
    else:
        row = rows[-1].clone()
        row[2::2] = torch.logaddexp(row[1::2], row[2::2])
        row[1::2] = row[1::2].clamp(max=float(rows[-1].min()) - 30)
        rows.append(row)
    before = end

{decoding}
entities, previous = [], "O"
for (start, end), tag in zip(words, [tags[place] for place in path]):
    if tag.startswith("I-") and previous[2:] == tag[2:]:
        entities[-1]["end"] = end
    elif tag != "O":
        entities.append({{"start": start, "end": end, "label": tag[2:]}})
    previous = tag
print([{{**entity, "text": text[entity["start"] : entity["end"]]}} for entity in entities])"""
"""The Python code of a model card that finds entities as `data.word_tokens` and `data.entities` do."""

_GREEDY = "path = [int(row.argmax()) for row in rows]\n"

_VITERBI = """\
# The most probable tags, in which I- only follows B- or I- of the same label.
best = [(0.0, [])]
for row in rows:
    reached = []
    for tag in tags:
        ways = [one for one in best if tag[:2] != "I-" or (one[1] and tags[one[1][-1]][2:] == tag[2:])]
        reached.append(max(ways, default=(-1e9, [])))
    best = [(score + float(row[place]), [*done, place]) for place, (score, done) in enumerate(reached)]
path = max(best)[1]
"""


def _counted(before: np.ndarray, after: np.ndarray, flipped: np.ndarray) -> Changes:
    """Count the changes of predictions by kind.

    Args:
        before, after: whether each prediction of the first and of the second adapter is right, bool [N].
        flipped: whether the two predictions differ, bool [N].
    """
    return Changes(
        flipped=int(flipped.sum()),
        right_to_wrong=int((flipped & before & ~after).sum()),
        wrong_to_right=int((flipped & ~before & after).sum()),
        wrong_to_wrong=int((flipped & ~before & ~after).sum()),
    )


class _Name(str):
    """A variable name in generated Python code, whose repr has no quotes."""

    def __repr__(self) -> str:
        return str(self)


def _among(answered: Answered) -> np.ndarray:
    """Return whether each answer equals one of its text's references, bool [N]."""
    return np.array([one in many for one, many in zip(answered.answers, answered.targets, strict=True)], bool)


def _right(answered: Answered) -> np.ndarray:
    """Return whether every predicted label of a text is right, bool [N]."""
    return _by_row(answered.answers == answered.targets, np.all)


def _flipped(first: Answered, second: Answered) -> np.ndarray:
    return _by_row(first.answers != second.answers, np.any)


def _by_row(table: np.ndarray, joined: Callable[..., np.ndarray]) -> np.ndarray:
    return joined(table, axis=1) if table.ndim == 2 else table


def _size(first: Answered, second: Answered) -> np.ndarray:
    size: np.ndarray = np.abs(second.answers - first.answers)
    return size


ADAPTER_KINDS: Mapping[str, AdapterKind] = {
    CLASSES: _Classes(),
    NUMBER: _Number(),
    LABELS: _Labels(),
    TEXT: _Text(),
    ENTITIES: _Entities(),
}


SUMMARY_METRICS = 4


def summary(manifest: Mapping[str, Any]) -> Sequence[tuple[str, str]]:
    """Return an adapter's labels and most important metrics, from its manifest, as pairs (title, text)."""
    objective, metrics = manifest.get("objective") or {}, manifest.get("metrics") or {}
    kind = ADAPTER_KINDS.get(objective.get("kind", CLASSES), ADAPTER_KINDS[CLASSES])
    shown = sorted(metrics.items(), key=lambda one: kind.place(one[0]))[:SUMMARY_METRICS]
    return (
        (kind.heading.lower(), ", ".join(manifest.get("label_names") or ())),
        ("metrics", ", ".join(f"{name} {figure(value)}" for name, value in shown)),
    )


def of(manifest: Manifest) -> AdapterKind:
    """Return the kind of task of an adapter from its manifest."""
    return ADAPTER_KINDS[objectives.make(manifest.label_names, manifest.objective).kind]
