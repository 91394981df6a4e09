"""The published study that afina grew from: its figures, settings and inconsistencies.

"Reprodução do Método LoRA para Adaptação do GPT-2 na Classificação de Sentimentos usando SST-2"
(Peixinho, Heimann, Paixao, de Carvalho, Brito; UFPE). The module has the figures and notes that are shown
beside a study named `paper`. It does not know how a table is made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from afina.report.arms import Arm
from afina.report.formatting import NOTHING, value_in_words
from afina.report.tables import (
    ALLOCATED_END,
    ANSWERS,
    COST,
    GPU_MEMORY,
    MEMORY,
    PERFORMANCE,
    RESERVED_PEAK,
    STATE,
    Beside,
    Measure,
    measured_on_gpu,
)
from afina.studies.runs.record import Record

STUDY = "paper"


@dataclass(frozen=True)
class PaperRow:
    """A method's row in the paper's tables, as printed; None if the paper prints a dash."""

    accuracy: str
    f1: str
    trainable: str | None = None
    percent: str | None = None
    train_seconds: str | None = None
    allocated: str | None = None
    cached: str | None = None


_PRELAYER = PaperRow("0.8314", "0.8372", "46,080 [3]", "0.0370 [3]", "2662.89", "0.49 [4]", "2.34")

FIGURES: Mapping[str, PaperRow] = {
    "baseline": PaperRow("0.5046", "0.2145"),
    "full": PaperRow("0.8326 [1]", "0.8341", "124,441,344", "100", "3492.40", "1.89 [4]", "4.12"),
    "lora": PaperRow("0.8693", "0.8742", "148,992", "0.1197", "2464.95", "0.49 [4]", "2.50"),
    "prelayer": _PRELAYER,
    "prelayer-46080": _PRELAYER,
}

HYPERPARAMETERS: Mapping[str, Mapping[str, object]] = {
    "prelayer": {"train_head": False},
    "prelayer-46080": {"train_head": False},
}
"""The non-default hyperparameters behind the paper's parameter counts, by method."""

SETTINGS: Mapping[str, object] = {
    "epochs": 2,
    "batch_size": 16,
    "learning_rate": 2e-4,
    "weight_decay": 0.01,
    "clip": 1.0,
    "max_length": 128,
    "max_steps": None,
}
LORA: Mapping[str, object] = {"r": 4, "alpha": 16, "dropout": 0.05}
SIZES = (67_349, 872)

FOOTNOTES: Mapping[str, tuple[str, ...]] = {
    PERFORMANCE: (
        "[1] 83.26 % for full fine-tuning is far below the 91 to 92.5 % that others report for GPT-2 on SST-2 "
        "at learning rates of 2e-5 to 5e-5. The learning rate of 2e-4 that all methods share is the likely "
        "cause, so the paper's claim that LoRA beats full fine-tuning compares a tuned method with an untuned "
        "one.",
        '[2] The paper calls PreLayer "statistically equivalent" to full fine-tuning. No test is behind that: '
        "one seed and 872 examples, where the 95 % interval of an accuracy of 0.83 is about 2.5 points either "
        "way.",
    ),
    COST: (
        "[3] By its text, PreLayer trains the token and position embeddings, `wte` and `wpe`. Those are "
        "39,383,808 parameters (31.6 %), not 46,080, and the paper does not say which the 46,080 are. 12 x "
        "3,840 fits several sets, for example `ln_1` and `c_attn.bias` of every block, or both MLP biases of "
        "every block. So this study has two runs: `prelayer` trains what the text says, `prelayer-46080` the "
        "first of those sets; the paper's one row stands beside both.",
    ),
    MEMORY: (
        '[4] The "allocated" figures match parameters, gradients and Adam state after training, in GiB '
        "(124.4M x 16 bytes = 1.85 GiB; 124.4M x 4 bytes and a little = 0.47 GiB), so they are most likely "
        "not a peak; this is inferred, the paper does not say. The optimiser state of the embeddings would "
        "not fit in PreLayer's 0.49 GB either.",
        '[5] The paper says "about 50 %" less GPU memory for LoRA in its abstract and conclusion, 74 % less '
        "in section 3.2. These are different quantities: its table has 74 % less allocated (0.49 against 1.89 "
        "GB) and 39 % less cached (2.50 against 4.12 GB).",
    ),
}

PADDING = (
    "The paper padded every text to 128 tokens. Padding is not reproduced, because it changes no result: no real token "
    "attends to a padding token, and the class is read from the last real one."
)
PADDING_COST = (
    "The paper padded every text to 128 tokens; ours are not padded. That changes time and memory, not results."
)


def beside(arms: Sequence[Arm]) -> Beside:
    """Return the paper's figures, footnotes and caveats for the tables of `arms`."""
    records = [record for arm in arms for record in arm.records]
    on_gpu = any(map(measured_on_gpu, records))
    allocated = _measure("Paper: GPU allocated (GB)", lambda one: one.allocated)
    cached = _measure("Paper: GPU cached (GB)", lambda one: one.cached)
    devices = ", ".join(dict.fromkeys(f"`{record.environment.device}`" for record in records))
    differences = departures(arms)
    warning = (
        [
            "NOT A REPRODUCTION of the paper; its figures stand here for orientation only. Differences: "
            + "; ".join(differences)
            + "."
        ]
        if differences
        else []
    )
    brief = [f"NOT A REPRODUCTION of the paper: see the note under {PERFORMANCE}."] if differences else []
    elsewhere = f"The paper's time and memory are those of one Colab GPU, ours of {devices}."
    return Beside(
        measures={
            "Accuracy": (_measure("Paper: accuracy", lambda one: one.accuracy),),
            "F1": (_measure("Paper: F1", lambda one: one.f1),),
            "of which head": (_measure("Paper: trainable", lambda one: one.trainable),),
            "% of total": (_measure("Paper: %", lambda one: one.percent),),
            "Training time (s)": (_measure("Paper: time (s)", lambda one: one.train_seconds),),
            **({ALLOCATED_END: (allocated,), RESERVED_PEAK: (cached,)} if on_gpu else {STATE: (allocated, cached)}),
        },
        notes={
            PERFORMANCE: (*warning, *FOOTNOTES[PERFORMANCE], PADDING),
            ANSWERS: tuple(brief),
            COST: (*brief, *FOOTNOTES[COST], elsewhere, PADDING_COST),
            (GPU_MEMORY if on_gpu else MEMORY): (*brief, *FOOTNOTES[MEMORY], elsewhere, PADDING_COST),
        },
    )


def departures(arms: Sequence[Arm]) -> list[str]:
    """Return the differences between the runs and the paper's set-up, in words; empty if there are none."""
    return list(dict.fromkeys(words for arm in arms for record in arm.records for words in _departures(record)))


def _departures(record: Record) -> list[str]:
    found = []
    if record.backbone.startswith("random:"):
        found.append(
            f"backbone `{record.backbone}` has random weights, so accuracy and F1 say nothing about the methods"
        )
    elif record.backbone.partition("@")[0] not in ("gpt2", "openai-community/gpt2"):
        found.append(f"backbone `{record.backbone}` (paper: `gpt2` from the Hub)")
    if record.task != "sst2":
        sizes = (record.train_examples, record.examples)
        if sizes != SIZES:
            found.append(
                f"task `{record.task}` with {sizes[0]:,} training and {sizes[1]:,} evaluation texts "
                f"(paper: SST-2, {SIZES[0]:,} and {SIZES[1]:,})"
            )
    asked = dict(SETTINGS) if record.steps else {"max_length": SETTINGS["max_length"]}
    found += _unlike(record.training, asked)
    if record.method == "lora":
        found += [f"LoRA's {words}" for words in _unlike(record.hyperparameters, LORA)]
    if record.steps and record.environment.dtype not in ("float32", "fp32"):
        found.append(f"trained in {record.environment.dtype} (paper: float32, Trainer's default)")
    return found


def _unlike(values: Mapping[str, object], expected: Mapping[str, object]) -> list[str]:
    return [
        f"{key} {value_in_words(values[key])} (paper: {'not set' if value is None else value_in_words(value)})"
        for key, value in expected.items()
        if key in values and values[key] != value
    ]


def _measure(heading: str, value: Callable[[PaperRow], str | None]) -> Measure:
    def cell(arm: Arm) -> str:
        published = FIGURES.get(arm.record.name)
        return NOTHING if published is None else value(published) or NOTHING

    return Measure(heading, cell)
