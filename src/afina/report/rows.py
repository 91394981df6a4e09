"""Which records make a row, and how a row is called.

Knows records; not which figures a table shows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from afina.studies.record import Record

READABLE = {
    "baseline": "no fine-tuning",
    "full": "full fine-tuning",
    "lora": "LoRA",
    "prelayer": "PreLayer",
    "prelayer-46080": "PreLayer (46,080)",
}
"""The methods' own titles; `afina.methods` is above this layer and cannot be read from here. A test compares them."""

_NO_EFFECT = frozenset({"checkpoint_seconds"})


@dataclass(frozen=True)
class Row:
    """One record, or all seeds of one setting (then `seed` reads "mean ± sd of N")."""

    label: str
    seed: str
    records: tuple[Record, ...]


def label(record: Record) -> str:
    """The method in words; with the run's own name where that differs, and whether PreLayer's head was trained."""
    remarks = [] if record.name == record.method else [record.name]
    train_head = record.hyperparameters.get("train_head")
    if train_head is False:
        remarks.append("head frozen")
    elif train_head is True and record.method.startswith("prelayer"):
        remarks.append("head trained")
    title = READABLE.get(record.method, record.method)
    if not remarks:
        return title
    return f"{title[:-1]}, {', '.join(remarks)})" if title.endswith(")") else f"{title} ({', '.join(remarks)})"


def groups(records: Iterable[Record]) -> list[tuple[Record, ...]]:
    """Records that differ in nothing but the seed, by seed; groups in the order in which they first appear."""
    found: list[list[Record]] = []
    for record in records:
        for group in found:
            if group[0].name == record.name and settings(group[0]) == settings(record):
                group.append(record)
                break
        else:
            found.append([record])
    return [tuple(sorted(group, key=lambda record: record.seed)) for group in found]


def labels(grouped: Sequence[tuple[Record, ...]]) -> list[str]:
    """One label per group; groups that would share one get the settings in which they differ."""
    plain = [label(group[0]) for group in grouped]
    shared = Counter(plain)
    named = []
    for group, text in zip(grouped, plain, strict=True):
        if shared[text] > 1:
            alike = [settings(other[0]) for other, name in zip(grouped, plain, strict=True) if name == text]
            mine = settings(group[0])
            text = f"{text}, {in_words({key: mine[key] for key in differing(alike) if key in mine})}"
        named.append(text)
    return named


def rows(records: Iterable[Record]) -> list[Row]:
    """One row per record, and after the seeds of one setting, where there are several, one row of all of them."""
    made = []
    grouped = groups(records)
    for group, text in zip(grouped, labels(grouped), strict=True):
        made += [Row(text, str(record.seed), (record,)) for record in group]
        if len(group) > 1:
            made.append(Row(text, f"mean ± sd of {len(group)}", group))
    return made


def settings(record: Record) -> dict[str, object]:
    """All that a run was asked for and given, except its seed and what changes no result."""
    return {
        "backbone": record.backbone,
        "backbone_digest": record.environment.backbone_digest,
        "task": record.task,
        "train_examples": record.train_examples,
        "train_digest": record.environment.train_digest,
        "evaluation_digest": record.environment.evaluation_digest,
        **training(record),
        **record.hyperparameters,
    }


def training(record: Record) -> dict[str, object]:
    """The training settings that can change a result."""
    return {key: value for key, value in record.training.items() if key not in _NO_EFFECT}


def differing(several: Sequence[Mapping[str, object]]) -> list[str]:
    """Keys whose value is not the same everywhere, in order of appearance."""
    keys = dict.fromkeys(key for one in several for key in one)
    return [key for key in keys if any(one.get(key) != several[0].get(key) for one in several)]


def in_words(values: Mapping[str, object]) -> str:
    """`r 4, alpha 16, targets c_attn`; unset values are left out."""
    return ", ".join(f"{key} {value_in_words(value)}" for key, value in values.items() if value is not None)


def value_in_words(value: object) -> str:
    """`yes`, `16`, `2e-05`, `q_proj + v_proj`."""
    if value is True or value is False:
        return "yes" if value else "no"
    if isinstance(value, float) and value.is_integer():
        return f"{value:.0f}"
    return " + ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
