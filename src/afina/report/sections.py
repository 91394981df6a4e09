"""The sections of a report: prose, notes, tables and plots, in the order in which they are read."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from types import MappingProxyType
from typing import TYPE_CHECKING

from afina.data.addresses import named
from afina.data.kinds import FIXED, columns_in_words
from afina.data.reading_options import ReadingOptions
from afina.methods import make
from afina.models.backbone_spec import FLOAT
from afina.report.arms import Arm, differing, has_several_backbones, products_of, records_of, training
from afina.report.examples.marked_answers import MarkedExamples
from afina.report.examples.side_by_side import Examples
from afina.report.formatting import (
    NOTHING,
    ask_notes,
    asked_by_api,
    backbone_digests,
    count,
    document_notes,
    in_words,
    listed,
    metric_heading,
    metric_name,
    number_of_texts,
    seconds,
    share,
    split_of,
    texts_cut,
    too_few,
    value_in_words,
)
from afina.report.plots.svg import Plot
from afina.report.presentation import PRESENTATIONS
from afina.report.tables import Column, Table, columns_of
from afina.stats.metrics import METRICS
from afina.studies.backbones import on_backbone
from afina.studies.runs.record import Environment, Record
from afina.studies.trials import Tuned
from afina.training.settings import DISTILLATION, training_settings

if TYPE_CHECKING:
    from afina.studies.descriptions import Failure


@dataclass(frozen=True)
class Prose:
    text: str


@dataclass(frozen=True)
class Subheading:
    text: str


@dataclass(frozen=True)
class Notes:
    items: tuple[str, ...]


@dataclass(frozen=True)
class Code:
    text: str


@dataclass(frozen=True)
class AnswerBlock:
    """The sentences of a conclusion, the headline first, and the plots beside them."""

    sentences: tuple[str, ...]
    plots: tuple[Plot, ...] = ()


Block = Prose | Subheading | Notes | Code | AnswerBlock | Table | Plot | Examples | MarkedExamples
"""A block of a section. A `Table` block is written without its title and notes, because the section has them."""


@dataclass(frozen=True)
class Section:
    title: str
    blocks: tuple[Block, ...]


def of_table(table: Table, *plots: Plot) -> Section:
    notes = (*table.notes, *table.details)
    return Section(table.title, (table, *([Notes(notes)] if notes else []), *plots))


def failures(failed: Sequence[Failure]) -> list[Section]:
    if not failed:
        return []
    lines = tuple(f"{one.name}, seed {one.seed}: {one.error}" for one in failed)
    return [Section("Failed runs", (Prose("Run the same command again to retry these runs."), Notes(lines)))]


def without_results(failed: Sequence[Failure], waiting: int) -> str:
    """Return a sentence about a study without a finished run; `waiting` is the number of runs not yet tried."""
    return "Every run failed." if failed and not waiting else "No run has finished."


def what_was_run(arms: Sequence[Arm]) -> Section:
    return Section("What was run", (Notes(tuple(_asked(arms))), _runs(arms)))


def provenance(arms: Sequence[Arm], command: Sequence[str]) -> list[Section]:
    made = []
    if arms:
        made += [Section("Adapters", (_adapters(arms),)), Section("Environment", tuple(_environments(arms)))]
    if command:
        made.append(Section("To repeat", (Code(shlex.join(command)),)))
    return made


def _asked(arms: Sequence[Arm]) -> list[str]:
    records = records_of(arms)
    opened = [record for record in records if record.endpoint is None]

    def each(value: Callable[[Record], str]) -> str:
        return "; ".join(dict.fromkeys(map(value, records)))

    def backbone(record: Record) -> str:
        if record.endpoint is not None:
            return f"`{record.endpoint.model}` at {record.endpoint.host} (API)"
        return f"`{record.backbone}`, {record.total:,} parameters{_with_head(record)}"

    asked = [_training(record) for record in opened or records]
    same = {key: value for key, value in asked[0].items() if key not in _by_run(asked)}
    leaked = max(record.leaked for record in records)
    return [
        "Backbone: " + each(backbone),
        "Task: "
        + each(
            lambda record: (
                f"`{record.task}`, {record.trained_on:,} training and {record.examples:,} evaluation texts, "
                f"{PRESENTATIONS[record.kind].told_targets(record.label_names)}"
            )
        ),
        f"Seeds: {', '.join(map(str, sorted({record.seed for record in records})))}",
        *([f"Training, the same in every run: {in_words(same)}"] if same else []),
        *ask_notes([record.ask for record in records if record.endpoint is None]),
        *[f"{arm.label} {asked_by_api(arm.record.ask)}." for arm in arms if arm.record.endpoint is not None],
        *_lessons(arms),
        *([f"Evaluation texts that also occur in the training split: {leaked:,}"] if leaked else []),
    ]


def _training(record: Record) -> dict[str, object]:
    """The training settings that can change the result: those of distillation only if the run had a teacher."""
    idle = DISTILLATION if record.teacher is None else ()
    return {key: value for key, value in training(record).items() if key not in idle}


def _lessons(arms: Sequence[Arm]) -> list[str]:
    labels = {record.digest: arm.label for arm in reversed(arms) for record in arm.records}  # the first of equal ones
    notes = []
    for arm in arms:
        record = arm.record
        if record.teacher is None:
            continue
        settings = in_words({name: record.training[name] for name in DISTILLATION})
        texts = f" and {record.unlabelled.texts:,} texts without labels" if record.unlabelled else ""
        teacher = labels.get(record.teacher, f"the adapter {record.teacher:.19}")
        notes.append(f"{arm.label} learned from {teacher} ({settings}), on {record.trained_on:,} labelled texts{texts}")
    return notes


def _with_head(record: Record) -> str:
    return " with the head" * PRESENTATIONS[record.kind].headed


def _by_run(asked: Sequence[dict[str, object]]) -> list[str]:
    """The training settings that the table of runs shows: the learning rate, and settings that differ between runs."""
    keys = differing([training_settings(one) for one in asked])
    always = "learning_rate"
    return keys if always in keys or not any(always in one for one in asked) else [always, *keys]


def _runs(arms: Sequence[Arm]) -> Table:
    records = records_of(arms)
    by_run = _by_run([_training(record) for record in records if record.endpoint is None] or [{}])
    lines = []
    for arm in arms:
        record = arm.record
        made = training_settings(_training(record))
        asked = [NOTHING if not record.steps or made.get(key) is None else value_in_words(made[key]) for key in by_run]
        amounts = [f"{record.steps:,}", f"{record.tokens:,}"] if record.steps else [NOTHING, NOTHING]
        lines.append((arm.label, in_words(_settings_of(record)) or NOTHING, *asked, *amounts))
    headings = [key.replace("_", " ").capitalize() for key in by_run]
    columns = columns_of(["Method", "Hyperparameters"], [*headings, "Steps", "Tokens"])
    return Table("Runs", columns, tuple(lines))


def _settings_of(record: Record) -> dict[str, object]:
    shown: dict[str, object] = dict(record.hyperparameters)
    if shown.get("shots"):
        shown.setdefault("draw", FIXED)
    if record.teacher is not None:
        shown |= {name: record.training[name] for name in DISTILLATION}
    if (use := record.endpoint) is not None:
        shown |= {"price_in": use.price_in, "price_out": use.price_out}
    return shown


def _adapters(arms: Sequence[Arm]) -> Table:
    lines = tuple(
        (arm.label, str(record.seed), *(f"`{one}`" if one else NOTHING for one in (record.adapter, record.digest)))
        for arm in arms
        for record in arm.records
    )
    return Table("Adapters", columns_of(["Method", "Seed", "Path", "Digest"]), lines)


def _environments(arms: Sequence[Arm]) -> list[Block]:
    arms = [arm for arm in arms if arm.record.endpoint is None] or arms  # where a model behind an API runs is unknown
    several, distinct = has_several_backbones(arms), list[tuple[Environment, str, list[str], set[str]]]()
    backbones = backbone_digests(records_of(arms)) if several else []
    for arm in arms:
        for record in arm.records:
            made, where = f"{arm.label}, seed {record.seed}", record.environment
            if backbones:
                where = where.model_copy(update={"backbone_digest": "", "tokenizer_digest": ""})
            together = "" if record.devices is None else record.devices.shown
            for known, beside, made_there, products in distinct:
                if (known, beside) == (where, together):
                    made_there.append(made)
                    products.add(products_of(record))
                    break
            else:
                distinct.append((where, together, [made], {products_of(record)}))
    if len(distinct) == 1:
        asks = all(arm.record.endpoint is not None for arm in arms)
        where, together, _, products = distinct[0]
        return [_environment(where, together, products, backbones, asks=asks)]
    said = f"The runs were made in {len(distinct)} environments: compare their times and memory with care."
    if len({environment.processor for environment, *_ in distinct}) > 1:
        said += " Digests from different processors are not compared."
    parts: list[Block] = [Prose(said)]
    for number, (environment, together, made_there, products) in enumerate(distinct, start=1):
        there = Prose(f"Made there: {'; '.join(made_there)}.")
        parts += [Subheading(f"Environment {number}"), there, _environment(environment, together, products, backbones)]
    return parts


def _environment(
    environment: Environment,
    together: str,
    products: Collection[str],
    backbones: Sequence[str],
    *,
    asks: bool = False,
) -> Notes:
    """Return the notes on an environment.

    `together`: how many processes computed a run together (`Devices.shown`). `asks`: whether all runs asked a model
    behind an API, so that nothing was computed here.
    """
    others = " or ".join(sorted({*products} - {FLOAT}))
    some = f" in the runs with `products` {others}" * (FLOAT in products)
    device = f"Device: {environment.device}; {environment.threads} threads{together}; training in {environment.dtype}"
    device += f", products with frozen weights in {others}{some}" if others else ""
    weights = (f"Backbone: `{environment.backbone_digest}`", f"Tokenizer: `{environment.tokenizer_digest}`")
    state = {None: "", False: ", clean tree", True: ", with changes not committed"}[environment.git_dirty]
    commit = f"`{environment.git_commit}`{state}" if environment.git_commit else "none"
    return Notes(
        (
            *(() if asks else (device,)),
            f"Machine: {environment.platform}, {environment.processor}",
            "Versions: " + ", ".join(f"{name} {version}" for name, version in sorted(environment.versions.items())),
            f"Git commit: {commit}",
            *(backbones or (() if asks else weights)),
            f"Training split: `{environment.train_digest}`",
            f"Evaluation split: `{environment.evaluation_digest}`",
        )
    )


def notes(arms: Sequence[Arm], data: ReadingOptions, found: int = 0, told: Sequence[str] = ()) -> list[str]:
    """Return the notes below the first table.

    `found`: the number of results, with equal ones of which one is used. `told`: where the study differs from its file.
    """
    if not arms:
        return []
    untrained = PRESENTATIONS[arms[0].record.kind].untrained(arms)
    equal = found - sum(len(arm.results) for arm in arms)
    repeated = [f"{count(equal)} results equal another one in settings, texts and seed, and are not counted."]
    return [*_on_figures(arms, data), *_on_texts(arms, data), *told, *repeated * (equal > 0), *untrained]


def _on_texts(arms: Sequence[Arm], data: ReadingOptions) -> list[str]:
    records = records_of(arms)
    files = {(one.task, one.trained_on, one.examples, one.set_aside) for one in records if named(one.task) is None}
    made = [f"{split_of(*one)}." for one in sorted(files)]
    made += dict.fromkeys(f"Columns: {columns_in_words(one.columns)}." for one in records if one.columns)
    made += _of_reading(arms)
    made += _cut_and_few(arms)
    for field, asked, there in (
        ("train_examples", data.train_examples, max(_read_to_train(one, data) for one in records)),
        ("evaluation_examples", data.evaluation_examples, max(one.examples for one in records)),
    ):
        if asked is not None and there < asked:
            made.append(f"data.{field} asks for {count(asked)} texts; there are {count(there)}, and all were used.")
    return made


def _read_to_train(record: Record, data: ReadingOptions) -> int:
    """Return the number of texts of the training split, with those that were set aside or left out afterwards."""
    left_out = record.left_out.training if record.left_out else 0
    validation = record.examples if data.validation is not None else 0  # these are then a part of the training split
    return record.trained_on + record.set_aside + left_out + validation


def _of_reading(arms: Sequence[Arm]) -> list[str]:
    notes = dict.fromkeys(note for arm in arms for record in arm.records for note in record.notes)
    made = []
    for note in notes:
        labels = [arm.label for arm in arms if any(note in record.notes for record in arm.records)]
        made.append(note if len(labels) == len(arms) else f"{listed(labels)}: {note}")
    return made


def doubts(arms: Sequence[Arm]) -> list[str]:
    """Return notes that put a metric in doubt: cut texts, too few texts, undefined metrics, constant predictions."""
    return [*_cut_and_few(arms), *rare_labels(arms), *_undefined(arms), *_monotonous_runs(arms)]


def _cut_and_few(arms: Sequence[Arm]) -> list[str]:
    records = records_of(arms)
    several = has_several_backbones(arms)
    cut = {
        (one.truncated, one.trained_on, one.examples, one.training.get("max_length"), one.backbone * several)
        for one in records
    }
    made = [
        f"`{backbone}`: " * several + texts_cut(truncated, train + held_out, length)
        for truncated, train, held_out, length, backbone in sorted(cut, key=str)
        if truncated
    ]
    made += [
        f"Figures on {number_of_texts(examples)}{too_few(examples)}."
        for examples in sorted({one.examples for one in records})
        if too_few(examples)
    ]
    return made


def _on_figures(arms: Sequence[Arm], data: ReadingOptions) -> list[str]:
    record, targets = arms[0].record, arms[0].targets
    presentation = PRESENTATIONS[record.kind]
    said = [
        f"On the evaluation texts{', from the weights at the end of training' * any(arm.trained for arm in arms)}.",
        *presentation.meaning(record, data),
        "The intervals say where the figure may lie on other texts of this kind, and with other seeds where several "
        "were run.",
    ]
    made = [" ".join(said), *rare_labels(arms), *document_notes(arms[0].results[0].answered)]
    made += presentation.metric_notes(arms)
    if len({result.predictions.right_as_bytes for arm in arms for result in arm.results}) == 1:
        made += presentation.least(record.label_names, targets.tolist())
        for metric, reached in record.ceiling.items():
            if metric == record.metric:
                made.append(
                    f"One human who tells what others say of these texts has {metric_name(metric)} {share(reached)}."
                )
    return [*made, *_undefined(arms), *_monotonous_runs(arms)]


def rare_labels(arms: Sequence[Arm]) -> list[str]:
    if not arms:
        return []
    record = arms[0].record
    return PRESENTATIONS[record.kind].rare(record.label_names, arms[0].targets, record.metrics)


def _undefined(arms: Sequence[Arm]) -> list[str]:
    lacking: dict[str, list[str]] = {}
    for arm in arms:
        for name in arm.record.metrics:
            of_labels = METRICS[name].chances and arm.record.endpoint is not None  # `_of_labels_only` says so
            if not of_labels and any(isnan(record.metrics.get(name, 0.0)) for record in arm.records):
                lacking.setdefault(name, []).append(arm.label)
    undefined = [
        f"{metric_heading(name)} is undefined{'' if len(labels) == len(arms) else f' for {listed(labels)}'}: it needs "
        f"{METRICS[name].needs}."
        for name, labels in lacking.items()
    ]
    return [*_of_labels_only(arms), *undefined]


def _of_labels_only(arms: Sequence[Arm]) -> list[str]:
    asked = [arm for arm in arms if arm.record.endpoint is not None]
    names = [*dict.fromkeys(name for arm in asked for name in arm.record.metrics if METRICS[name].chances)]
    if not names:
        return []
    told = listed([metric_heading(names[0]), *map(metric_name, names[1:])])
    need, give = "s" * (len(names) == 1), "s" * (len(asked) == 1)
    return [f"{told} need{need} probabilities; {listed([arm.label for arm in asked])} give{give} only labels."]


def _monotonous_runs(arms: Sequence[Arm]) -> list[str]:
    made = []
    for arm in arms:
        for result in arm.results:
            made += _monotonous(arm.label, result.record, result.answers.tolist())
    return made


def _monotonous(label: str, record: Record, answers: list[object]) -> list[str]:
    if len(answers) < 2 or len(set(map(str, answers))) > 1:
        return []
    same = PRESENTATIONS[record.kind].same(record.label_names, answers[0])
    if not same:
        return []
    more = f" It took {record.steps:,} steps; more `epochs` may help." if record.steps else ""
    return [f"{label}, seed {record.seed}, answered {same} to every text.{more}"]


def tuning_table(tuned: Sequence[Tuned], names: Mapping[str, str] = MappingProxyType({})) -> Table:
    """Return the table of the tuning budget of each method; `names` has the name of each backbone by its address.

    Metrics on the validation texts are not shown: they chose the hyperparameters, so they are optimistic.
    """
    held = max((one.validation_examples for one in tuned), default=0)
    lines = [
        (
            _tuned_title(one, names),
            count(len(one.trials)),
            count(one.stopped),
            count(one.steps),
            seconds(one.seconds),
            in_words(_rounded(one.setting)) if one.setting else NOTHING,
        )
        for one in tuned
    ]
    return Table(
        "Tuning budget",
        (
            *columns_of(["Method"], ["Candidates", "Stopped early", "Steps", "Seconds"]),
            Column("Chosen setting", "left"),
        ),
        tuple(lines),
        (
            f"Each method that can be tuned was given the same number of training steps. {held:,} texts were cut from "
            "the training split to choose by; their figures are in no table. The runs above trained on the whole "
            "training split at the chosen setting, and were evaluated once, on texts that chose nothing.",
            "Seconds are wall-clock, with the start and the loading of each candidate. A method without candidates has "
            "nothing to tune.",
        ),
    )


def _tuned_title(one: Tuned, names: Mapping[str, str]) -> str:
    title = make(one.method).title + ("" if one.name == one.method else f" ({one.name})")
    backbone = names.get(one.backbone or "")
    return on_backbone(title, backbone) if backbone else title


def _rounded(setting: dict[str, object]) -> dict[str, object]:
    return {key: float(f"{value:.3g}") if isinstance(value, float) else value for key, value in setting.items()}
