"""The words and the Python code of a model card that depend on the kind of task (classes, number, labels, ...)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from afina import digest
from afina.data.entities import tag_names
from afina.data.kinds import CLASSES, ENTITIES, LABELS, NUMBER, TEXT
from afina.data.words import WORD
from afina.models import objectives
from afina.models.decoding import Decoding
from afina.models.manifest import Manifest
from afina.repr_html import figure


@dataclass(frozen=True)
class CardKind:
    """What a model card says about an adapter of a kind of task.

    Attributes:
        labels: the text above the list of labels.
        title: what a model card calls the adapter.
        auto_class: the auto class of transformers that opens the backbone.
        headline: the metrics that are shown first; the other metrics follow in the order of the manifest.
        rows: the lines of the numbered list of labels, from the label names.
        long_texts: what users of other libraries have to do with a text of more than `{most}` tokens.
        answering: the Python code that prints the answer to a text, decoded as afina decodes it, from the manifest and
            the arguments of `from_pretrained` for the tokenizer. None: the reader decodes the outputs.
    """

    labels: str
    title: str = "A text classifier"
    pipeline_tag: str = "text-classification"
    auto_class: str = "AutoModelForSequenceClassification"
    heading: str = "Labels"
    headline: Sequence[str] = ()
    rows: Callable[[Sequence[str]], Sequence[str]] = list
    long_texts: str = "cut each text to {most:,} tokens"
    answering: Callable[[Manifest, str], str] | None = None

    @property
    def imports(self) -> str:
        """The names that the Python code imports from transformers, separated by commas."""
        return self.auto_class if self.answering is None else f"{self.auto_class}, AutoTokenizer"

    def base(self, address: str, manifest: Manifest) -> str:
        """Return the Python expression that opens the backbone, by the first arguments of `from_pretrained`."""
        outputs = objectives.make(manifest.label_names, manifest.objective).width
        sized = "" if self.auto_class == _WRITER else f", num_labels={outputs}"
        return f"{self.auto_class}.from_pretrained({address}{sized})"

    def place(self, metric: str) -> int:
        """Return the sort key that puts the metrics in `headline` before all other metrics."""
        return self.headline.index(metric) if metric in self.headline else len(self.headline)


SUMMARY_METRICS = 4


def summary(manifest: Mapping[str, Any]) -> Sequence[tuple[str, str]]:
    """Return an adapter's labels and most important metrics, from its manifest, as pairs (title, text)."""
    objective, metrics = manifest.get("objective") or {}, manifest.get("metrics") or {}
    kind = CARD_KINDS.get(objective.get("kind", CLASSES), CARD_KINDS[CLASSES])
    shown = sorted(metrics.items(), key=lambda metric: kind.place(metric[0]))[:SUMMARY_METRICS]
    return (
        (kind.heading.lower(), ", ".join(manifest.get("label_names") or ())),
        ("metrics", ", ".join(f"{name} {figure(value)}" for name, value in shown)),
    )


def chat_template(manifest: Mapping[str, Any]) -> str:
    """Return the digest of the chat template that an adapter was trained with, "unknown", or "" without chats."""
    if not (manifest.get("objective") or {}).get("chat"):
        return ""
    text = manifest.get("chat_template")
    return "unknown" if text is None else digest.of_strings([text])


def of(manifest: Manifest) -> CardKind:
    return CARD_KINDS[objectives.make(manifest.label_names, manifest.objective).kind]


class _Name(str):
    """A variable name in generated Python code, whose repr has no quotes."""

    def __repr__(self) -> str:
        return str(self)


def _writing(manifest: Manifest, directory: str) -> str:
    """Return code that fills the prompt template and generates an answer with the adapter's decoding settings."""
    settings = manifest.objective or {}
    decoding, template = Decoding(**settings.get("decoding", {})), manifest.template or "{text}"
    options = decoding.for_transformers(settings.get("answer_tokens"))
    options |= {"stop_strings": list(decoding.stop), "tokenizer": _Name("tokenizer")} if decoding.stop else {}
    arguments = ", ".join(f"{name}={value!r}" for name, value in options.items())
    pair = '.replace("{text_pair}", "a second text")' if "{text_pair}" in template else ""
    special = ", add_special_tokens=False" if settings.get("chat") else ""
    return "\n".join(
        (
            f"tokenizer = AutoTokenizer.from_pretrained({directory})",
            f'prompt = {template!r}.replace("{{text}}", "a text"){pair}',
            f'tokens = tokenizer(prompt, return_tensors="pt"{special})',
            "end = tokenizer.eos_token_id",
            f"answer = model.generate(**tokens, {arguments}, eos_token_id=end, pad_token_id=end)",
            'answer = answer[0, tokens["input_ids"].shape[1] :]',
            "print(tokenizer.decode(answer, skip_special_tokens=True).strip())",
        )
    )


def _finding(manifest: Manifest, directory: str) -> str:
    """Return code that prints the entities of a text with their places."""
    settings = objectives.make(manifest.label_names, manifest.objective).settings or {}
    path = _VITERBI if settings.get("viterbi", True) else _GREEDY
    tags = list(tag_names(manifest.label_names))
    return _FINDING.format(pattern=WORD, tags=tags, directory=directory, decoding=path)


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


_WRITER = "AutoModelForCausalLM"

CARD_KINDS: Mapping[str, CardKind] = {
    CLASSES: CardKind("One of these labels for each text, in the order of the model's outputs:"),
    NUMBER: CardKind("A number for each text:"),
    LABELS: CardKind("Any number of these labels for each text, in the order of the model's outputs:"),
    TEXT: CardKind(
        labels="A text for each text.",
        title="A text generator",
        pipeline_tag="text-generation",
        auto_class=_WRITER,
        heading="Answers",
        headline=("rouge_l", "bleu", "token_f1", "loss"),
        rows=lambda names: (),  # the only name is that of the target column
        long_texts="cut the text so that the prompt has at most {most:,} tokens",
        answering=_writing,
    ),
    ENTITIES: CardKind(
        labels=(
            "A tag for each word, in the order of the model's outputs: O is no entity; B- begins one; I- goes on with "
            "it."
        ),
        title="A token classifier",
        pipeline_tag="token-classification",
        auto_class="AutoModelForTokenClassification",
        headline=("entity_f1", "entity_precision", "entity_recall"),
        rows=tag_names,
        long_texts=(
            "divide a text of more than {most:,} tokens into windows that overlap, and read each word in the window in "
            "which the word is farthest from a border"
        ),
        answering=_finding,
    ),
}
