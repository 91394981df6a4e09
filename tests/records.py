"""Records and results made by hand, for tests of what reads them. All figures are invented, none is the paper's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from afina import digest
from afina.data.entities import as_entities, numbered, tags_of
from afina.data.reading_options import ReadingOptions
from afina.data.split import as_references
from afina.data.words import words_of
from afina.methods import METHODS
from afina.models.adapter import Adapter
from afina.models.manifest import Manifest
from afina.models.objective import Objective
from afina.models.objectives import Labels, Number, Texts
from afina.models.predictions import Predictions
from afina.models.token_classification import Entities
from afina.studies.descriptions import Failure
from afina.studies.published import Published
from afina.studies.results import Results
from afina.studies.runs.output_directory import OutputDirectory
from afina.studies.runs.record import EndpointUse, Environment, Memory, Record, Result, Seconds
from afina.studies.trials import Tuned

GPT2_TOTAL = 124_441_344
HEAD = 1_536
TRAINED = {"baseline": 0, "full": 124_439_808, "lora": 147_456, "prelayer": 39_383_808, "prelayer-46080": 46_080}
"""Body parameters that each method trains on GPT-2, from its shapes: 12 blocks of width 768, rank 4."""

UNTRAINED = ("baseline", "zero-shot")

GOLD, PREDICTED = (0, 1, 1, 0, 1), (0, 1, 0, 0, 1)
"""What is right of five texts, and what a run says of them, unless a test has others."""


TEXTS = 400
"""Of what `answering` answers."""


def environment(**changes: Any) -> Environment:
    values: dict[str, Any] = {
        "versions": {"torch": "2.13.0", "afina": "0.1.0"},
        "platform": "Linux",
        "processor": "a processor",
        "device": "cpu",
        "threads": 2,
        "dtype": "float32",
        "git_commit": "0123abc",
        "git_dirty": False,
        "backbone_digest": "sha256:b0",
        "tokenizer_digest": "sha256:b1",
        "train_digest": "sha256:d0",
        "evaluation_digest": "sha256:d1",
    }
    return Environment(**{**values, **changes})


def memory(**changes: Any) -> Memory:
    values: dict[str, Any] = {
        "state_bytes": 512 * 2**20,
        "activation_bytes": 40 * 2**20,
        "activation_tokens": 700,
        "rss_peak": 3 * 2**30,
        "allocated_end": None,
        "allocated_peak": None,
        "reserved_peak": None,
    }
    return Memory(**{**values, **changes})


def record(method: str = "lora", **changes: Any) -> Record:
    """A finished run of GPT-2; `train_head` false for both PreLayer methods, as in the paper.

    `accuracy` and `f1` change these metrics alone.
    """
    head = 0 if method in UNTRAINED or method.startswith("prelayer") else HEAD
    steps, body = 0 if method in UNTRAINED else 250, TRAINED.get(method, 0)
    hyperparameters = {
        "lora": {"r": 4, "alpha": 16, "dropout": 0.05, "targets": ["c_attn"]},
        "prelayer": {"train_head": False},
        "prelayer-46080": {"train_head": False},
    }
    values: dict[str, Any] = {
        "key": f"sha256:{method}",
        "study": "mine",
        "name": method,
        "method": method,
        "seed": 0,
        "backbone": "gpt2",
        "task": "sst2",
        "label_names": ("negative", "positive"),
        "hyperparameters": hyperparameters.get(method, {}),
        "training": {"epochs": 2, "batch_size": 16, "learning_rate": 2e-4, "max_length": 128, "max_steps": None},
        "title": METHODS[method].title,
        "kind": "classes",
        "metric": "accuracy",
        "metrics": {"accuracy": changes.pop("accuracy", 0.6), "f1": changes.pop("f1", 0.55)},
        "train_examples": 67_349,
        "examples": 872,
        "trainable": body + head,
        "body": body,
        "head": head,
        "total": GPT2_TOTAL,
        "steps": steps,
        "tokens": 1_000 * steps,
        "tokens_per_second": 2_500.0 if steps else None,
        "truncated": 0,
        "leaked": 2,
        "seconds": Seconds(load=1.0, encode=2.0, train=100.0 if steps else 0.0, evaluate=4.0, save=0.5),
        "memory": memory() if steps else memory(activation_bytes=None, activation_tokens=None),
        "losses": ((10, 0.7), (20, 0.6)),
        "predictions": f"predictions/{method}-0.safetensors",
        "predictions_digest": "sha256:pr",
        "adapter": f"adapters/{method}-0",
        "digest": "sha256:ad",
        "environment": environment(),
    }
    return Record(**{**values, **changes})


def result(
    method: str = "lora", *, gold: Sequence[int] = GOLD, predicted: Sequence[int] = PREDICTED, **changes: Any
) -> Result:
    """A finished run whose outputs say `predicted` of examples that are `gold`; both are indices of labels."""
    made = record(method, **changes)
    return Result(made, predictions(gold, predicted, len(made.label_names)))


def answering(method: str, wrong: range | list[int], **changes: Any) -> Result:
    """A run that is wrong on those texts alone."""
    right = tuple(index % 2 for index in range(TEXTS))
    predicted = tuple(1 - gold if index in wrong else gold for index, gold in enumerate(right))
    values = {"gold": right, "predicted": predicted, "accuracy": 1 - len(wrong) / TEXTS, "examples": TEXTS}
    return result(method, **{**values, **changes})


def endpoint_use(**changes: Any) -> EndpointUse:
    """The answers of a model behind an API, with a cost."""
    values: dict[str, Any] = {
        **{"host": "api.openai.com", "model": "m", "examples": 400, "kept": 0, "requests": 400},
        **{"seconds_p50": 0.5, "seconds_p95": 1.0, "tokens_in": 40_000, "tokens_out": 800},
        **{"cost": 0.0416, "cost_per_1000": 0.104, "temperature": True, "structure": "used"},
    }
    return EndpointUse(**{**values, **changes})


def asked(wrong: range | list[int], **changes: Any) -> Result:
    """A model behind an API that answered all texts."""
    hyperparameters = {"url": "https://api.openai.com/v1", "model": "m"}
    values: dict[str, Any] = {
        **{"endpoint": endpoint_use(), "adapter": None, "digest": None, "hyperparameters": hyperparameters},
        **{"title": "m (endpoint)", "backbone": "endpoint:api.openai.com/m", "steps": 0, "tokens": 0, "training": {}},
        **dict.fromkeys(("trainable", "body", "head", "total"), 0),
        **{"tokens_per_second": None, "seconds": Seconds(load=1, encode=0, train=0, evaluate=5, save=0)},
    }
    made = answering("lora", wrong, **{**values, "name": "endpoint", "key": "sha256:asked", **changes})
    return Result(made.record.model_copy(update={"method": "endpoint"}), made.predictions)


def predictions(gold: Sequence[int], predicted: Sequence[int], labels: int = 2) -> Predictions:
    """Outputs of 1 for the answer, 0 for every other label."""
    return Predictions(np.eye(labels, dtype=np.float32)[list(predicted)], np.array(gold, np.int64))


def of_kind(kind: str, method: str = "lora", *, noise: float = 1.0, seed: int = 0, **changes: Any) -> Result:
    """A finished run of another kind of task, with outputs as near to what is right as `noise` has it."""
    drawn = np.random.default_rng([seed, *method.encode()])
    if kind == "number":
        right = np.random.default_rng(0).normal(50.0, 10.0, TEXTS)
        objective: Objective = Number(("price",), mean=50.0, scale=10.0)
        outputs = ((right - 50) / 10 + noise * drawn.normal(size=TEXTS))[:, None]
    else:
        objective = Labels(changes.pop("label_names", ("rude", "mean", "off topic")))
        width = len(objective.label_names)
        right = (np.random.default_rng(0).random((TEXTS, width)) < 0.3).astype(np.int64)
        outputs = 4.0 * right - 2 + 2 * noise * drawn.normal(size=(TEXTS, width))
    predicted = Predictions(outputs.astype(np.float32), right)
    told = {"kind": kind, "objective": objective.settings, "metric": objective.metric, "examples": TEXTS, "seed": seed}
    told |= {"label_names": objective.label_names, "metrics": objective.metrics(predicted)}
    return Result(record(method, **(told | changes)), predicted)


WORDS = (
    "the",
    "bright",
    "warm",
    "dull",
    "soup",
    "play",
    "lamp",
    "ferry",
    "novel",
    "garden",
    "turned",
    "out",
    "in",
    "end",
)


def texts(method: str = "lora", *, noise: float = 0.3, seed: int = 0, size: int = 60, **changes: Any) -> Result:
    """A finished run that answers with texts; a share `noise` of the words of an answer is drawn anew.

    Every second text has three references.
    """
    drawn, words = np.random.default_rng([seed, *method.encode()]), np.random.default_rng(0)
    right, answers = [], np.empty(size, object)
    for place in range(size):
        several = [words.choice(WORDS, words.integers(6, 16)) for _ in range(1 + 2 * (place % 2))]
        right.append(tuple(" ".join(one).capitalize() + "." for one in several))
        kept = [word if drawn.random() > noise else str(drawn.choice(WORDS)) for word in several[0]]
        answers[place] = " ".join(kept).capitalize() + "."
    tokens = np.array([sum(map(len, several)) for several in right], np.int64) // 4
    extras = {
        "nll": tokens * (1 + noise),
        "reference_tokens": tokens,
        "new_tokens": np.array([len(one) // 4 for one in answers], np.int64),
        "ended": drawn.random(size) > noise / 4,
    }
    objective = Texts(("ref",), answer_tokens=40)
    predicted = Predictions(answers, as_references(right), extras)
    told = {"kind": "text", "objective": objective.settings, "metric": objective.metric, "examples": size, "seed": seed}
    told |= {"label_names": ("ref",), "metrics": objective.metrics(predicted)}
    told |= {"signatures": objective.signatures(predicted.right), "head": 0}
    return Result(record(method, **(told | changes)), predicted)


NAMES = {"PER": ("Maria Silva", "Ana", "Rui"), "LOC": ("Porto", "Rio Tinto")}


def sentences_with_entities(size: int = 60) -> tuple[list[str], np.ndarray]:
    """Sentences with a person and a place, or neither, and their entities."""
    drawn, texts, found = np.random.default_rng(1), list[str](), []
    for place in range(size):
        who, where = (str(drawn.choice(NAMES[label])) for label in ("PER", "LOC"))
        text = f"{who} went to {where} on day {place}." if place % 3 else f"The ferry left on day {place}."
        spans = [(text.index(name), label) for name, label in ((who, "PER"), (where, "LOC")) if name in text]
        lengths = {"PER": len(who), "LOC": len(where)}
        texts.append(text)
        found.append([(start, start + lengths[label], label) for start, label in spans])
    return texts, as_entities(found)


def entities(method: str = "lora", *, noise: float = 1.0, seed: int = 0, size: int = 60, **changes: Any) -> Result:
    """A finished run that finds entities, with outputs as near to what is right as `noise` has it."""
    drawn, (texts, right) = np.random.default_rng([seed, *method.encode()]), sentences_with_entities(size)
    objective = Entities(("LOC", "PER"))
    words = [words_of(text) for text in texts]
    eye = 4 * np.eye(objective.width)
    made = [
        eye[tags_of(each, gold)] + 2 * noise * drawn.normal(size=(len(each), objective.width))
        for each, gold in zip(words, numbered(right, objective.label_names), strict=True)
    ]
    outputs = np.fromiter((each.astype(np.float32) for each in made), dtype=object)
    predicted = Predictions(outputs, right, {"words": np.fromiter(words, dtype=object)})
    told = {"kind": "entities", "objective": objective.settings, "metric": objective.metric, "examples": size}
    told |= {"label_names": objective.label_names, "metrics": objective.metrics(predicted), "seed": seed}
    return Result(record(method, **(told | changes)), predicted)


def results(
    made: Sequence[Result],
    name: str = "mine",
    *,
    out: Path = Path("out"),
    failed: Sequence[Failure] = (),
    command: Sequence[str] = (),
    tuned: Sequence[Tuned] = (),
    published: Published | None = None,
    task: str = "sst2",
    waiting: int = 0,
) -> Results:
    """What has come of a study of that name."""
    return Results(
        name,
        out,
        tuple(made),
        tuple(failed),
        tuple(command),
        tuple(tuned),
        task=task,
        data=ReadingOptions(),
        waiting=waiting,
        published=published,
    )


def carried_out(
    out: Path,
    answers: Sequence[int],
    targets: Sequence[int],
    method: str,
    label: str,
    *,
    labels: int = 2,
    **changes: Any,
) -> Record:
    """A record under `out`, with the files that it names: an adapter of one number, and predictions that give
    `answers`.
    """
    directory = OutputDirectory(out)
    directory.adapter(label).parent.mkdir(parents=True, exist_ok=True)
    made = _small_adapter(method, changes.get("label_names", ("negative", "positive")))
    made.save(directory.adapter(label))
    path = directory.predictions(label)
    written = predictions(targets, answers, labels).write(path)
    right = float(np.mean(np.array(answers) == np.array(targets)))
    files = {"predictions": directory.relative(path), "predictions_digest": written}
    files |= {"adapter": directory.relative(directory.adapter(label)), "digest": made.digest}
    return record(method, **({"metrics": {"accuracy": right, "f1": right}} | files | changes)).sealed()


def _small_adapter(method: str, labels: tuple[str, ...]) -> Adapter:
    import torch  # most readers of this module need no torch

    tensors = {"weight": torch.ones(1)}
    facts: dict[str, Any] = dict.fromkeys(("backbone_digest", "tokenizer_digest", "family"))
    facts |= {"method": method, "hyperparameters": {}, "label_names": labels, "backbone": "gpt2", "max_length": 128}
    facts |= {"tensor_file": "delta.safetensors", "tensors_digest": digest.of_tensors(tensors)}
    return Adapter(Manifest(**facts).sealed(), tensors)


def every_method(**changes: Any) -> list[Record]:
    return [record(method, **changes) for method in TRAINED]


def every_result(**changes: Any) -> list[Result]:
    return [result(method, **changes) for method in TRAINED]
