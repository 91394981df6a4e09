"""The published study that afina began with: its figures and claims, beside the results of a study named `paper`.

The published study is "Reprodução do Método LoRA para Adaptação do GPT-2 na Classificação de Sentimentos usando SST-2"
(Peixinho, Heimann, Paixao, de Carvalho, Brito; UFPE). Each claim of the published study is tested on the results of the
study named `paper`. The verdict "supported" holds only for the data, model and machine of the study `paper`. A claim
whose methods were not run is "not tested", with the reason as evidence.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, stdev
from typing import Literal

from afina.models.backbone_spec import FLOAT
from afina.report.arms import Arm, of_greatest_size, products_of
from afina.report.formatting import ACCURACY, NOTHING, metric_name, points, value_in_words
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
    Column,
    Measure,
    Table,
    measured_on_gpu,
)
from afina.report.verdicts import Verdicts
from afina.studies.runs.record import Record

STUDY = "paper"


@dataclass(frozen=True)
class PaperRow:
    """A method's row in the tables of the published study, as printed; None if the study prints a dash."""

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
"""The hyperparameters that give the published study's parameter counts and are not afina's defaults, by method."""

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
    """Return the figures, footnotes and caveats of the published study for the report's tables."""
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
    """Return a phrase for each difference between the runs' settings and those of the published study."""
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
    if (products := products_of(record)) != FLOAT:
        found.append(f"products with frozen weights in {products} (paper: float32)")
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


CLAIMS = "The published study's claims, tested here"

Status = Literal["supported", "contradicted", "undecided", "not tested"]

PUBLISHED = {
    "1": "LoRA beats full fine-tuning in accuracy (86.93 against 83.26 %) with 0.12 % of the parameters.",
    "2": "LoRA takes 29 % less training time than full fine-tuning.",
    "3a": '"About 50 %" less GPU memory for LoRA (abstract and conclusion; which figure is meant is not said).',
    "3b": "74 % less GPU memory allocated for LoRA (section 3.2).",
    "4": 'PreLayer is "statistically equivalent" to full fine-tuning.',
    "5": "Full fine-tuning might match or pass LoRA with more epochs and a smaller learning rate, such as 2e-5 "
    "(section 4.2; not tested there).",
}
TIME, ABOUT_HALF, ALLOCATED = 0.71, 0.55, 0.26
"""The largest ratios of LoRA to full fine-tuning that support the claims "29 %", "about 50 %" and "74 % less"."""
SMALL_RATE = 5e-5
TIMING_ERROR = 0.1
"""The relative error of one measured training time, assumed if there are too few seeds for an interval."""

Judge = Callable[[str, bool, bool], Status]
"""A function that returns the status of a claim about two methods.

The arguments are the verdict on the first method, whether the two methods are equivalent, and whether the first method
is significantly not worse than the second by the margin.
"""


@dataclass(frozen=True)
class Claim:
    """One claim of the published study, tested on one pair of methods.

    Attributes:
        evidence: Further measurements, and how many more runs would decide the claim. For a claim that is not tested,
            `evidence` says what is missing.
        quantity: "difference in accuracy" (a share) or "ratio"; None if the claim was not tested.
        figure: The measured value of `quantity`; None if the claim was not tested.
        interval: The confidence interval of `figure`; None if there is no interval.
    """

    number: str
    claim: str
    methods: tuple[str, ...]
    status: Status
    quantity: str | None = None
    figure: float | None = None
    interval: tuple[float, float] | None = None
    evidence: str = ""


def claims(arms: Sequence[Arm], found: Verdicts) -> list[Claim]:
    """Return the tested claims in the order of the published study.

    There are no claims to test unless the study has full fine-tuning and also LoRA or PreLayer. If there are several
    sizes of the training split, the claims are tested on the largest size.
    """
    arms = of_greatest_size(arms)
    lora = [arm for arm in arms if arm.record.method == "lora"]
    full = [arm for arm in arms if arm.record.method == "full"]
    prelayer = [arm for arm in arms if arm.record.method.startswith("prelayer")]
    if not full or not (lora or prelayer):
        return []
    return [
        *_tested("1", lora, full, found, _beats, "LoRA"),
        *_ratios("2", lora, full, TIME, _seconds),
        *_ratios("3a", lora, full, ABOUT_HALF, _needed),
        *_ratios("3b", lora, full, ALLOCATED, _held),
        *_tested("4", prelayer, full, found, _equivalent, "PreLayer"),
        *_gentler_full(full, lora, found),
    ]


def _tested(
    number: str,
    ours: Sequence[Arm],
    theirs: Sequence[Arm],
    found: Verdicts,
    judge: Judge,
    method: str,
) -> Iterator[Claim]:
    if not ours:
        yield _not_tested(number, f"no run of {method} in this study")
    for first in ours:
        for second in theirs:
            yield _by_accuracy(number, first, second, found, judge)


def _by_accuracy(number: str, first: Arm, second: Arm, found: Verdicts, judge: Judge) -> Claim:
    methods, metric = (first.label, second.label), first.record.metric
    if metric != ACCURACY:
        return _not_tested(number, f"the claim is about accuracy, and these figures are {metric_name(metric)}", methods)
    between = found.between(*methods)
    if between is None:
        reasons = [one.reason for one in found.not_comparable if {one.first, one.second} == set(methods)]
        return _not_tested(number, "; ".join(reasons) or "the two were not compared", methods)
    one, reverse = between
    sign = -1 if reverse else 1
    low, high = sorted((sign * one.interval.low, sign * one.interval.high))
    opposite = {"better": "worse", "worse": "better"}
    verdict = opposite.get(one.verdict, one.verdict) if reverse else one.verdict
    difference = sign * one.difference
    share = 100 * first.record.trainable / second.record.trainable
    evidence = [f"{share:.4g} % of its trained parameters"] if number == "1" else []
    evidence += _rates(first.record, second.record)
    if verdict == "undecided":
        evidence.append(f"to settle it, {_settling(one.more_seeds, one.more_examples)}")
    status = judge(verdict, one.equivalence < 1 - one.level, low > -one.margin)
    said = "; ".join(evidence)
    return Claim(number, PUBLISHED[number], methods, status, "difference in accuracy", difference, (low, high), said)


def _rates(ours: Record, theirs: Record) -> list[str]:
    first, second = (one.training.get("learning_rate") for one in (ours, theirs))
    if first is None or second is None:
        return []
    if first == second:
        return [f"both at a learning rate of {value_in_words(first)}, which may suit one better than the other"]
    return [f"learning rates {value_in_words(first)} and {value_in_words(second)}"]


def _settling(seeds: int | None, examples: int | None) -> str:
    ways = [
        *([f"about {seeds} more seeds"] if seeds else []),
        *([f"about {examples:,} more evaluation texts"] if examples else []),
    ]
    return " or ".join(ways) or "more seeds or evaluation texts; how many cannot be said from these"


def _beats(verdict: str, equivalent: bool, not_worse: bool) -> Status:
    if verdict == "better":
        return "supported"
    return "contradicted" if verdict in ("worse", "equivalent") else "undecided"


def _equivalent(verdict: str, equivalent: bool, not_worse: bool) -> Status:
    if equivalent:  # a significant difference within the margin is still equivalence
        return "supported"
    return "contradicted" if verdict in ("better", "worse") else "undecided"


def _matches(verdict: str, equivalent: bool, not_worse: bool) -> Status:
    if not_worse or equivalent or verdict == "better":
        return "supported"
    return "contradicted" if verdict == "worse" else "undecided"


def _gentler_full(full: Sequence[Arm], lora: Sequence[Arm], found: Verdicts) -> Iterator[Claim]:
    missing = f"a run of full fine-tuning at a learning rate of at most {SMALL_RATE:g}, or for more epochs than LoRA"
    if not lora:
        yield _not_tested("5", "no run of LoRA in this study")
        return
    pairs = [(first, second) for first in full for second in lora if _gentler(first.record, second.record)]
    if not pairs:
        yield _not_tested("5", f"missing is {missing}")
    for first, second in pairs:
        yield _by_accuracy("5", first, second, found, _matches)


def _gentler(full: Record, lora: Record) -> bool:
    rate, mine, theirs = full.training.get("learning_rate"), full.training.get("epochs"), lora.training.get("epochs")
    longer = mine is not None and theirs is not None and mine > theirs
    return (rate is not None and rate <= SMALL_RATE) or (longer and full.training.get("max_steps") is None)


Quantity = Callable[[Sequence[Record]], tuple[str, list[float]]]
"""A function that returns the name of a quantity and its values for the given records; [] if any value is missing."""


def _ratios(
    number: str, ours: Sequence[Arm], theirs: Sequence[Arm], left: float, quantity: Quantity
) -> Iterator[Claim]:
    if not ours:
        yield _not_tested(number, "no run of LoRA in this study")
    for first in ours:
        for second in theirs:
            yield _by_ratio(number, first, second, left, quantity)


def _by_ratio(number: str, first: Arm, second: Arm, left: float, quantity: Quantity) -> Claim:
    methods = (first.label, second.label)
    both = (*first.records, *second.records)
    if len(first.machines | second.machines) > 1:
        return _not_tested(number, "the two were measured on different machines", methods)
    name, figures = quantity(both)
    if not figures:
        return _not_tested(number, "not measured in both", methods)
    mine, yours = figures[: len(first.results)], figures[len(first.results) :]
    ratio = math.exp(fmean(map(math.log, mine)) - fmean(map(math.log, yours)))
    interval, how = (_over_seeds(mine, yours), "") if number == "2" else (None, "")
    if number == "2" and interval is None:
        interval = (ratio * (1 - TIMING_ERROR), ratio * (1 + TIMING_ERROR))
        how = f"; one timing each, taken to be right within {100 * TIMING_ERROR:g} %"
    low, high = interval or (ratio, ratio)
    status: Status = "supported" if high <= left else "contradicted" if low > left else "undecided"
    change = f"{100 * abs(1 - ratio):.0f} % {'less' if ratio < 1 else 'more'}"
    evidence = f"{change} {name}, on {both[0].environment.device}{how}; the claim holds at × {left:.2f} or less"
    return Claim(number, PUBLISHED[number], methods, status, "ratio", ratio, interval, evidence)


def _over_seeds(mine: Sequence[float], yours: Sequence[float]) -> tuple[float, float] | None:
    """The 95 % interval of the ratio of the geometric means of `mine` and `yours`, by Welch's t on logarithms.

    None if `mine` or `yours` has only one value, or if neither varies.
    """
    first, second = list(map(math.log, mine)), list(map(math.log, yours))
    if min(len(first), len(second)) < 2 or stdev(first) + stdev(second) < 1e-12:
        return None
    from scipy.stats import ttest_ind

    interval = ttest_ind(first, second, equal_var=False).confidence_interval(0.95)
    return math.exp(interval.low), math.exp(interval.high)


def _seconds(records: Sequence[Record]) -> tuple[str, list[float]]:
    measured = all(record.steps and record.seconds.train > 0 for record in records)
    return "training time", [record.seconds.train for record in records] if measured else []


def _needed(records: Sequence[Record]) -> tuple[str, list[float]]:
    """Return each run's memory: PyTorch's peak of allocated GPU memory, or state plus activations without a GPU."""
    if all(measured_on_gpu(record) for record in records):
        return "GPU memory allocated at the peak", _all([record.memory.allocated_peak for record in records])
    activations = [record.memory.activation_bytes for record in records]
    if None in activations:
        return "state and activations", []
    sums = [record.memory.state_bytes + (record.memory.activation_bytes or 0) for record in records]
    return "state and activations (no GPU memory was measured)", _all(sums)


def _held(records: Sequence[Record]) -> tuple[str, list[float]]:
    """Return each run's memory after the last step, which is most likely what the published study calls "allocated"."""
    if all(measured_on_gpu(record) for record in records):
        return "GPU memory allocated after the last step", _all([record.memory.allocated_end for record in records])
    return "state after the last step (no GPU memory was measured)", _all([one.memory.state_bytes for one in records])


def _all(values: Sequence[int | None]) -> list[float]:
    return [float(value) for value in values if value] if all(values) else []


def _not_tested(number: str, missing: str, methods: tuple[str, ...] = ()) -> Claim:
    return Claim(number, PUBLISHED[number], methods, "not tested", evidence=missing)


def claim_table(tested: Sequence[Claim]) -> Table | None:
    """Return a table with a row for each claim and pair of methods; None if `tested` is empty.

    The notes of the table quote the claims of the published study.
    """
    if not tested:
        return None
    rows = []
    for one in tested:
        form = points if one.quantity == "difference in accuracy" else "× {:.3f}".format
        measured = NOTHING if one.figure is None else form(one.figure)
        interval = NOTHING if one.interval is None else " to ".join(map(form, one.interval)).replace("to × ", "to ")
        rows.append((one.number, one.status, " / ".join(one.methods) or NOTHING, measured, interval, one.evidence))
    columns = (
        *(Column(name, "left") for name in ("Claim", "is", "Tested on")),
        Column("Measured"),
        Column("Interval"),
        Column("Remarks", "left"),
    )
    wording = [f"{number}: {claim}" for number, claim in PUBLISHED.items()]
    rule = (
        "Measured: percentage points of accuracy, first minus second, or the ratio of first to second. Time and memory "
        "are those of this machine, the study's those of one Colab GPU; a claimed saving is supported where ours is as "
        "large."
    )
    return Table(CLAIMS, columns, tuple(rows), (*wording, rule))


def claims_as_json(tested: Sequence[Claim]) -> list[dict[str, object]]:
    """Return the tested claims as JSON values, for `--json` and tables.json."""
    return [asdict(one) for one in tested]
