"""The recommendation of `afina choose` in a few sentences, and the table of the methods that were tried."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import inf, isnan, nan

from afina.data.label_words import no_words_note
from afina.data.readers.target_kinds import TARGETS
from afina.methods import METHODS, make
from afina.models.backbone_spec import FLOAT, MINILM
from afina.report.details.plans import in_int8
from afina.report.formatting import (
    NOTHING,
    ask_notes,
    capitalised,
    count,
    figure_with_interval,
    interval_heading,
    listed,
    metric_heading,
    metric_name,
    money,
    number_of_texts,
    share,
    size,
    span,
    too_few,
)
from afina.report.tables import EVIDENCE, Column, Table, columns_of
from afina.report.verdicts import ONE_SEED, SIGNIFICANT, trained_on_sentence, undecided_clause
from afina.stats.comparison import Comparison, difference_text
from afina.stats.intervals import wilson
from afina.stats.metrics import METRICS
from afina.studies.backbones import ON
from afina.studies.choosing import floors
from afina.studies.choosing.recommendation import (
    BATCH,
    EPOCHS,
    READ,
    SHOTS,
    Contender,
    Dropped,
    Recommendation,
    Student,
)
from afina.studies.choosing.recorded_curves import FEW_LABELS, RECORDED, RECORDED_ON
from afina.studies.runs.record import EndpointUse

MOST = 4  # other methods that the sentences name; the table has all
Interval = tuple[float, float] | None
"""The 95 % interval of the recommended method's headline metric; None if it cannot be computed."""


def sentences(choice: Recommendation, interval: Interval = None) -> tuple[str, ...]:
    """Return the recommendation in sentences, the recommended method first."""
    chosen = choice.contender(choice.recommended)
    if chosen.endpoint is not None:
        said = _of_endpoint(choice, chosen, chosen.endpoint)
    else:
        said = _of_method(choice, chosen) if chosen.trained else _of_simple(choice, chosen)
    answer = f"{_nothing_trained(choice)}{_best(choice, interval)} on {choice.examples:,} held-out texts"
    answer += f"{_undecided(choice)}."
    answer += _speed(choice, chosen)
    unasked = [no_words_note(choice.unasked, choice.train_examples)] if choice.unasked else []
    early = (
        [f"The choice was ended after {choice.seconds:,.0f} s of {choice.minutes:g} minutes."] if choice.early else []
    )
    told = (*early, *second_answer(choice), *_of_few(choice), *said, *_of_rival(choice))
    return (answer, *unasked, *told, *_of_labels(choice), more_minutes(choice), more_labels(choice))


def _of_labels(choice: Recommendation) -> list[str]:
    found = choice.labels
    if found is None:
        return []
    return [
        f"{found.method} contradicts {count(found.doubtful)} of {count(found.texts)} labels, also of hard texts. Not "
        f"more than about {count(found.wrong)} of the labels are as doubtful as labels that were flipped on purpose; "
        f"with 95 % confidence, at most {count(found.at_most)}. `afina doubts` looks at the labels with a language "
        "model and lists them."
    ]


def _nothing_trained(choice: Recommendation) -> str:
    if any(one.trained for one in choice.contenders):
        return ""
    time = f"{choice.seconds:,.0f} seconds" if choice.early else f"{choice.minutes:g} minutes"
    return f"No language model was trained in {time}, so only untrained methods were compared. "


def _of_few(choice: Recommendation) -> list[str]:
    """A sentence on how far few texts decided; empty if recorded trainings took no part."""
    if choice.train_examples >= FEW_LABELS or choice.kind not in RECORDED or not METRICS[choice.metric].share:
        return []
    if not any(one.trained for one in choice.contenders):
        return []
    texts = number_of_texts(choice.train_examples)
    if choice.examples >= FEW_LABELS:
        return [f"With {texts} to train on, the choice also uses recorded trainings on other tasks."]
    return [
        f"With {texts} to train on and {choice.examples:,} held out, your texts can hardly tell methods apart. "
        "Recorded trainings of three other tasks with few labels count more than your texts. With "
        f"{FEW_LABELS} training texts or more, your texts count more."
    ]


def second_answer(choice: Recommendation) -> tuple[str, ...]:
    """Return the sentences on the student of the recommended model; empty if no texts without labels were given."""
    student = choice.student
    if student is None:
        return (f"No student was trained: {choice.no_student}.",) if choice.no_student else ()
    times, backbone = student.of_teacher / student.milliseconds, student.name.partition(ON)[2]
    few = student.available is not None and student.unlabelled < student.available
    texts = f"{student.unlabelled:,} of the {student.available:,}" if few else f"{student.unlabelled:,}"
    more = " More minutes would use more of the texts without labels." if few else ""
    figure = f"{metric_name(choice.metric)} {share(student.metrics[choice.metric])}"
    return (
        f"{backbone}, distilled: {figure}{_less(student)}, {times:,.2g} times as fast "
        f"({student.milliseconds:,.3g} ms for a single text here, and {student.of_teacher:,.3g} ms with "
        f"{title(student.teacher)}).",
        f"The distilled {backbone} learned from {title(student.teacher)} on {student.examples:,} labelled texts and "
        f"{texts} texts without labels, in {student.seconds + student.answering:,.0f} s.{more} The adapter of the "
        f"distilled {backbone} is {student.adapter}.",
    )


def _less(student: Student) -> str:
    """Return how much better or worse a student is than its teacher, as a clause that begins with a comma."""
    found = student.comparison
    if found is None:
        return ""
    metric, sign = METRICS[found.metric], 1 if found.difference > 0 else -1
    words = difference_text(sign * found.difference, found.interval, metric, found.level, sign)
    return f", {words} {'more' if sign > 0 else 'less'}"


def _speed(choice: Recommendation, chosen: Contender) -> str:
    """Return a sentence on the milliseconds per prediction; empty without a latency limit, or for a baseline."""
    if choice.latency is None or chosen.key is None or chosen.endpoint is not None:
        return ""
    on = chosen.name.partition(ON)[2] or next(iter(choice.latencies))
    measured = choice.latencies.get(chosen.name) or choice.latencies[on]
    return f" An answer to a single text takes {measured:,.3g} ms here; at most {choice.latency:g} ms are allowed."


def headline(choice: Recommendation, interval: Interval = None) -> str:
    """Return the recommended method, such as `Use LoRA: accuracy 0.88 (0.78 to 0.95), undecided against TF-IDF`."""
    return f"{_best(choice, interval)}{_undecided(choice)}"


def so_far(name: str, metric: str, value: float, examples: int, waiting: Sequence[str], interval: Interval) -> str:
    """Return an answer so far, such as `So far the best: LoRA, accuracy 0.88 (0.78 to 0.95) on 60 held-out texts`."""
    figure = f"{metric_name(metric)} {figure_with_interval(metric, value, interval)}"
    after = [*(title(one) for one in waiting[:2]), *([f"{len(waiting) - 2} more"] if waiting[2:] else [])]
    more = f"; next, if there is time: {listed(after)}" if after else ""
    return f"So far the best: {title(name)}, {figure} on {examples:,} held-out texts{more}"


def _undecided(choice: Recommendation) -> str:
    """Return a clause on the methods that may be as good as the recommended one, the best first."""
    mine = [one for one in choice.comparisons if choice.recommended in (one.first, one.second)]
    names = {name for one in mine if one.verdict == "undecided" for name in (one.first, one.second)}
    rivals = [one for one in choice.contenders if one.name in names - {choice.recommended}]
    return undecided_clause([title(one.name) for one in sorted(rivals, key=lambda one: -_gain(choice, one))])


def _best(choice: Recommendation, interval: Interval) -> str:
    chosen = choice.contender(choice.recommended)
    if chosen.endpoint is not None:
        use = f"{chosen.name} at {chosen.endpoint.host}"
    elif chosen.trained:
        use = title(chosen.name)
    elif chosen.key:
        use = f"the untrained model, asked in words ({title(chosen.name)})"
    else:
        use = f"{chosen.name}, without a language model"
    figure = figure_with_interval(choice.metric, chosen.metrics[choice.metric], interval)
    return f"Use {use}: {metric_name(choice.metric)} {figure}"


def more_minutes(choice: Recommendation) -> str:
    waiting = [name for name, one in choice.dropped.items() if one.why in ("start", "train", "overrun", "ended")]
    trained = [one for one in choice.contenders if one.trained]
    read = max((one.examples or 0 for one in trained), default=0)
    more = []
    if waiting:
        verb = "try" if any(map(_is_asked, waiting)) else "train"
        more.append(f"{'also ' if trained else ''}{verb} {_names(waiting)}")
    if trained and choice.train_examples >= FEW_LABELS and read < READ * choice.train_examples:
        more.append(f"read all {choice.train_examples:,} training texts instead of {read:,}")
    in_steps = [one for one in trained if one.rate is not None]
    passes = min((round((one.steps or 0) * BATCH / max(1, one.examples or 1)) for one in in_steps), default=EPOCHS)
    short = [one for one in trained if choice.is_short(one)]
    if trained and passes < EPOCHS and (short or not more):
        more.append(f"train {EPOCHS} epochs instead of {passes}")
    if all_held_out := _held_out_in_part(choice):
        more.append(f"evaluate on all {all_held_out:,} held-out texts instead of {choice.examples:,}")
    all_short = bool(short) and len(short) == len(in_steps)
    smaller = _SMALLER if all_short and choice.backbone != MINILM and not TARGETS[choice.kind].written else ""
    if more:
        return f"More minutes would {' and '.join(more)}.{smaller}"
    if not trained:
        return "More minutes would change nothing: no method was left out because of time."
    return f"More minutes would change little: {_settings(len(trained))} trained completely."


def _held_out_in_part(choice: Recommendation) -> int:
    """Return the number of all held-out texts if there was no time to evaluate on all of them; else 0."""
    read = choice.data.evaluation_examples
    return choice.held_out if choice.held_out is not None and read is not None and read < choice.held_out else 0


_SMALLER = f" A smaller backbone, such as {MINILM}, trains in less time."


def more_labels(choice: Recommendation) -> str:
    """Return a sentence on whether more labelled texts would help, judged by a training on half of the texts."""
    fewer = choice.fewer
    if fewer is None:
        return "Whether more labels would help was not measured: there were too few texts or minutes."
    whole, half = choice.contender(fewer.name).metrics[choice.metric], fewer.metrics[choice.metric]
    seen = (
        f"{title(fewer.name)} has {metric_name(choice.metric)} {share(half)} when trained on half of the texts "
        f"({fewer.examples:,}) and {share(whole)} when trained on all"
    )
    if fewer.comparison.verdict == "better":
        return f"More labels would probably help: {seen}."
    if fewer.comparison.verdict == "equivalent":
        return (
            f"More labels would probably change little: {seen}, equivalent within {fewer.comparison.margin_in_words}."
        )
    return f"It is undecided whether more labels would help: {seen}."


def _settings(count: int) -> str:
    return "the only planned setting was" if count == 1 else f"all {count} planned settings were"


def _of_method(choice: Recommendation, chosen: Contender) -> tuple[str, str, str]:
    trained = [one for one in choice.contenders if one.trained]
    others = [one for one in trained if _way(one) != _way(chosen)] + _simple(choice)
    best: dict[object, str] = {}
    for one in sorted(others, key=lambda one: -_gain(choice, one)):
        if _gain(choice, one) > -inf:  # its best rate
            figure = share(one.metrics[choice.metric])
            best.setdefault(_way(one) if one.method else one.name, f"{title(one.name)} ({figure})")
    beside = ", ".join([*best.values()][:MOST])
    memory = f" and {size(chosen.memory)} of memory" if chosen.memory else ""
    products = f", with products in {choice.products}" if _lowers_products(choice, chosen) else ""
    mine = [one for one in choice.comparisons if chosen.name in (one.first, one.second)]
    name = capitalised(title(chosen.name))
    assert chosen.trainable is not None
    assert chosen.total is not None
    return (
        f"{capitalised(_why_it(choice, chosen))}."
        + (f" Other methods on the held-out texts: {beside}." if beside else "")
        + _not_chosen(choice, chosen, others),
        f"{name} trains {chosen.trainable:,} parameters ({100 * chosen.trainable / chosen.total:.3g} % of the model) "
        f"and took {chosen.seconds:,.0f} s of training on {chosen.examples:,} texts{products}{memory}."
        + (f" {name} took only {_steps(chosen)}, and may be better with more." if choice.is_short(chosen) else ""),
        _sure(choice, mine, title(chosen.name)),
    )


def _not_chosen(choice: Recommendation, chosen: Contender, others: Sequence[Contender]) -> str:
    """Return a sentence, with a space, on a method that is better on the held-out texts but was not chosen; else ""."""
    ahead = [one for one in others if _gain(choice, one) > _gain(choice, chosen) > -inf]
    if not ahead:
        return ""
    best = max(ahead, key=lambda one: _gain(choice, one))
    if not best.trained and choice.train_examples < FEW_LABELS:
        reason = f"but {title(chosen.name)} was better in recorded trainings with few labels."
    elif best.trained and not any(_is_better(one, best.name, chosen.name) for one in choice.comparisons):
        reason = "but not significantly. Only a significant difference on these texts would change the choice."
    else:
        return ""
    return f" {capitalised(title(best.name))} is better on these texts, {reason}"


def _lowers_products(choice: Recommendation, chosen: Contender) -> bool:
    return choice.products != FLOAT and chosen.method is not None and make(chosen.method).multiplies_frozen


def _gain(choice: Recommendation, one: Contender) -> float:
    """The headline metric, negated if lower is better; -inf without a figure."""
    figure = one.metrics.get(choice.metric, nan)
    return -inf if isnan(figure) else -figure if METRICS[choice.metric].lower else figure


def _way(one: Contender) -> tuple[str | None, str | None]:
    """The backbone and the method of a candidate or baseline, without the learning rate."""
    return one.backbone, one.method


def _why_it(choice: Recommendation, chosen: Contender) -> str:
    sign, name = -1 if METRICS[choice.metric].lower else 1, title(chosen.name)
    trained = [one for one in choice.contenders if one.trained]
    if len(trained) == 1:
        why = "was trained before the end" if choice.early else "could be trained in the given time and memory"
        return f"{name} is the only method that {why}"
    asked = [one for one in trained if one.validation is not None] or [chosen]
    seen = max(asked, key=lambda one: -inf if one.validation is None else sign * one.validation)
    if seen.validation is None and chosen.ended is not None:
        return f"{name} had the lowest loss on the validation texts, where {metric_name(choice.metric)} is undefined"
    if chosen.validation == seen.validation:
        level = [one for one in asked if one.validation == seen.validation and one.name != chosen.name]
        names = f", level with {listed([title(one.name) for one in level])}" if level else ""
        ahead = level and all(chosen.weighed and chosen.weighed > (one.weighed or 0.0) for one in level)
        further = ", and was better in recorded trainings on other tasks" if ahead else ""
        return f"{name} was best on {_validation_texts(chosen)}{names}{further}"
    first = max(asked, key=lambda one: -1.0 if one.weighed is None else one.weighed)
    if chosen.weighed is not None and chosen.weighed == first.weighed and choice.train_examples < FEW_LABELS:
        return (
            f"{title(seen.name)} was better on {_validation_texts(chosen, counted=True)}, but "
            f"{name} was better in recorded trainings on other tasks"
        )
    if chosen.weighed is not None and chosen.weighed == first.weighed:
        return (
            f"{name} was nearly as good as {title(seen.name)} on {_validation_texts(chosen, counted=True)}, "
            "and better in recorded trainings on other tasks"
        )
    before = seen if chosen.weighed is None else first
    if any(_is_better(one, chosen.name, before.name) for one in choice.comparisons):
        return (
            f"{title(before.name)} was best on the validation texts, but {name} is significantly better on the "
            "held-out texts"
        )
    return f"{title(before.name)} was best on the validation texts, but only {name} beats every method without training"


def _validation_texts(chosen: Contender, *, counted: bool = False) -> str:
    """Return `the 44 validation texts`; without a large number, unless `counted`."""
    texts = chosen.validation_examples or 0
    if texts == 1:
        return "the only validation text"
    return f"the {count(texts)} validation texts" if counted or 1 < texts < FEW_LABELS else "the validation texts"


def _of_simple(choice: Recommendation, chosen: Contender) -> tuple[str, str, str]:
    """Return the reason, the costs and the verdicts of a recommended method without training."""
    tried = [one for one in choice.contenders if one.trained]
    trained = [one for one in tried if not choice.is_short(one)]
    if trained:
        best = max(trained, key=lambda one: _gain(choice, one))
        figure = f"{metric_name(choice.metric)} {share(best.metrics[choice.metric])}"
        why = f"No trained language model is better: the best, {title(best.name)}, has {figure}."
        if _gain(choice, best) > _gain(choice, chosen) > -inf:
            why = (
                f"{capitalised(title(best.name))} has {figure} on the held-out texts, but {title(chosen.name)} was "
                "better in recorded trainings with few labels."
            )
        name = floors.FLOORS[choice.kind].learned if chosen.name in floors.CONSTANTS else chosen.name
        adapted = {one.name for one in trained}
        compared = [
            one for one in choice.comparisons if name in (one.first, one.second) and adapted & {one.first, one.second}
        ]
        settle = _sure(choice, compared, title(name))
    else:
        short = ", ".join(f"{title(one.name)} took {_steps(one)}" for one in tried)
        why = (
            f"No language model could be trained long enough to tell: {short}."
            if short
            else "No language model could be trained and evaluated in the given time and memory."
        )
        settle = "It is open whether a trained language model would be better."
    if chosen.key:
        costs = (
            f"{capitalised(title(chosen.name))} needs no training; the adapter holds only the template and the output "
            "embeddings of its words."
        )
    else:
        costs = f"{capitalised(chosen.name)} was fitted in seconds" + (
            ", and its adapter needs no backbone."
            if chosen.adapter
            else f"; no adapter was saved, because {floors.FLOORS[choice.kind].unsaved(chosen.name)}."
        )
    return why, costs, settle


def _of_endpoint(choice: Recommendation, chosen: Contender, use: EndpointUse) -> tuple[str, str, str]:
    assert choice.instead_of is not None
    other = choice.contender(choice.instead_of)
    mine = [one for one in choice.comparisons if chosen.name in (one.first, one.second)]
    saved = f"; its adapter is in {other.adapter}" if other.adapter else ""
    return (
        f"{chosen.name} is significantly better than {title(other.name)}. Without a model behind an API, "
        f"{title(other.name)} would be recommended: {metric_name(choice.metric)} "
        f"{share(other.metrics[choice.metric])}{saved}.",
        f"{_costs(use)} Nothing was trained, so there is no adapter, and every text is sent to {use.host}.",
        _sure(choice, mine, chosen.name),
    )


def _of_rival(choice: Recommendation) -> list[str]:
    found = []
    for one in choice.contenders:
        if one.endpoint is None or one.name == choice.recommended:
            continue
        compared = [each for each in choice.comparisons if {each.first, each.second} == {one.name, choice.recommended}]
        verdict = compared[0].seen_from(one.name) if compared else None
        words = "not compared with" if verdict is None else _AGAINST.get(verdict, "not significantly better than")
        found.append(
            f"{one.name} at {one.endpoint.host} has {metric_name(choice.metric)} {share(one.metrics[choice.metric])}, "
            f"{words} {title(choice.recommended)}. {_costs(one.endpoint)}"
        )
    return found


_AGAINST = {"better": "significantly better than", "worse": "significantly worse than", "equivalent": "equivalent to"}


def _costs(use: EndpointUse) -> str:
    seconds = "" if use.seconds_p50 is None else f"Half of its answers took at most {use.seconds_p50:,.2g} s. "
    lacking = f"{number_of_texts(use.missing_texts)} had no answer. " if use.missing_texts else ""
    if use.cost_per_1000 is None:
        return f"{seconds}{lacking}Its cost is unknown, because prices or numbers of tokens are missing."
    cost = money(use.cost_per_1000)
    return f"{seconds}{lacking}It costs {cost} for 1,000 texts, in the currency of the given prices."


def _steps(one: Contender) -> str:
    return f"{count(one.steps or 0)} steps on {number_of_texts(one.examples or 0)}"


def _is_better(one: Comparison, name: str, than: str) -> bool:
    return {one.first, one.second} == {name, than} and one.seen_from(name) == "better"


def _simple(choice: Recommendation) -> list[Contender]:
    """The evaluated methods without training, except baselines that always predict the same."""
    same = floors.CONSTANTS
    return [one for one in choice.contenders if not one.trained and one.name not in same and one.metrics]


def trained_on(choice: Recommendation) -> dict[str, int]:
    """Return the training texts of each compared method, by its title."""
    compared = {name for one in choice.comparisons for name in (one.first, one.second)}
    return {title(one.name): one.examples for one in choice.contenders if one.name in compared and one.examples}


def _sure(choice: Recommendation, compared: Sequence[Comparison], name: str) -> str:
    if not compared:
        return ONE_SEED
    against: dict[str, list[str]] = {verdict: [] for verdict in _VERDICT_WORDS}
    for one in map(titled, compared):
        against[one.seen_from(name)].append(one.second if one.first == name else one.first)
    said = [f"{_VERDICT_WORDS[verdict]} {listed(names)}" for verdict, names in against.items() if names]
    meant = [SIGNIFICANT] if against["better"] or against["worse"] else []
    names = {name for one in map(titled, compared) for name in (one.first, one.second)}
    sizes = {one: size for one, size in trained_on(choice).items() if one in names}
    notes = [*meant, *filter(None, [trained_on_sentence(sizes)]), ONE_SEED]
    return f"On the held-out texts, {name} is {'; '.join(said)}. {' '.join(notes)}"


_VERDICT_WORDS = {
    "better": "better than",
    "equivalent": "equivalent to",
    "worse": "worse than",
    "undecided": "undecided against",
}


NOT_KEPT = "the single answers of a baseline are not kept"


def counted_interval(choice: Recommendation, one: Contender) -> Interval:
    """Return Wilson's interval of a share of right answers; None for another metric and without a figure."""
    value = one.metrics.get(choice.metric, nan)
    if not METRICS[choice.metric].counted or isnan(value):
        return None
    return wilson(round(value * choice.examples), choice.examples).ends


def evidence(choice: Recommendation, doubts: Sequence[str] = ()) -> Table:
    names = _metrics(choice)
    counted = METRICS[choice.metric].counted
    between = [interval_heading(choice.metric)] if counted else []
    headline, *further = map(metric_heading, names)
    headings = (headline, *between, *further, "Trained on", "Steps", "Training (s)", "Process, peak")
    lines = [
        (
            title(one.name),
            *_figures(choice, one, names),
            *(NOTHING if figure is None else count(figure) for figure in (one.examples, one.steps, one.seconds)),
            NOTHING if one.memory is None else size(one.memory),
            (setting_note(one, choice.metric) or one.setting or _asked(one))
            + ("; too few steps to tell how good the method is" if choice.is_short(one) else ""),
        )
        for one in choice.contenders
    ]
    few = too_few(choice.examples)
    part = f"of the {all_held_out:,} " if (all_held_out := _held_out_in_part(choice)) else ""
    notes = [
        f"Figures are of {choice.examples:,} {part}held-out texts. These texts do not select a setting, unless a "
        "difference on them is significant or a method without training is better. Trained on: how many of the "
        f"{choice.train_examples:,} training texts a method was trained on.",
        *([] if counted else [_NO_INTERVALS]),
        *([f"Figures on {number_of_texts(choice.examples)}{few}."] if few else []),
        *doubts,
        *([_VALIDATION] if any(one.validation is not None for one in choice.contenders) else []),
        *([_GUESS] if choice.kind not in RECORDED and any(one.trained for one in choice.contenders) else []),
        *_unrecorded(choice),
        *([_time(choice)] if choice.stages else []),
        *([_AT_ONCE.format(choice.at_once)] if choice.at_once > 1 else []),
        *([_latencies(choice)] if choice.latency is not None else []),
        *ask_notes([one.ask for one in choice.contenders if one.adapter]),
        *_left_out(choice.dropped),
    ]
    first = sorted(choice.comparisons, key=lambda one: choice.recommended not in (one.first, one.second))
    details = [*(f"{capitalised(titled(one).sentence)}." for one in first), *([ONE_SEED] if first else [])]
    columns = (*columns_of([""], headings), Column("Note", "left"))
    return Table(EVIDENCE, columns, tuple(lines), tuple(notes), details=tuple(details))


def _figures(choice: Recommendation, one: Contender, names: Sequence[str]) -> Iterator[str]:
    """Yield the figures of a row, the headline metric with its interval if answers are counted."""
    for name in names:
        figure = one.metrics.get(name)
        yield NOTHING if figure is None else share(figure)
        if name == choice.metric and METRICS[name].counted:
            found = counted_interval(choice, one)
            yield NOTHING if found is None else span(found)


_NO_INTERVALS = (
    f"This table has no intervals, because {NOT_KEPT}. The report has the intervals of the trained methods, and those "
    "of all differences."
)

_GUESS = (
    "No training on a task of this kind was recorded, so the order in which the settings were trained is a guess: it "
    "is the order for tasks of classes, with the default learning rates first."
)


def _unrecorded(choice: Recommendation) -> list[str]:
    """A note on backbones without recorded learning curves, which have the order of a recorded one of the same type."""
    others = [one for one in choice.backbones if one not in RECORDED_ON.values()]
    if not others or choice.kind not in RECORDED:
        return []
    return [
        f"No training was recorded on {listed(others)}: the order and the expected advantages are those of "
        f"{listed([*RECORDED_ON.values()])}, by type of backbone."
    ]


_AT_ONCE = (
    "Up to {} trainings ran at once, so more settings were tried than one after the other. Their seconds were measured "
    "beside each other."
)


def _latencies(choice: Recommendation) -> str:
    each = ", ".join(f"{title(name)} {time:,.3g} ms" for name, time in choice.latencies.items())
    return (
        f"Answers to single texts, on the machine that chose: {each} (median of held-out texts, before training, "
        f"float32). Allowed: {choice.latency:g} ms."
    )


def _left_out(dropped: Mapping[str, Dropped]) -> list[str]:
    reasons: dict[str, list[str]] = {}
    for name, one in dropped.items():
        reasons.setdefault(why_left_out(one), []).append(name)
    return [f"Left out: {_names(names)}: {why.removesuffix('.')}." for why, names in reasons.items()]


def _names(names: Sequence[str]) -> str:
    """Return the titles of methods as a list in words; on several backbones, at most MOST."""
    titles = [title(name) for name in names]
    if len(titles) <= MOST or not any(ON in name for name in names):
        return listed(titles)
    return listed([*titles[: MOST - 1], f"{len(titles) - MOST + 1} other settings"])


def _time(choice: Recommendation) -> str:
    parts = ", ".join(f"{name} {taken:,.0f} s" for name, taken in choice.stages.items() if taken >= 0.5)
    return f"Choosing took {choice.seconds:,.0f} s: {parts or 'each stage less than a second'}."


_VALIDATION = (
    "Validation texts are a part of the training texts. The setting is selected on them, and no setting was trained on "
    "them before. The selected setting was then trained on all training texts, if there was time."
)


def _metrics(choice: Recommendation) -> list[str]:
    there = next((one.metrics for one in choice.contenders if one.metrics), {})
    return list(dict.fromkeys([choice.metric, *there]))[:2]


def _asked(one: Contender) -> str:
    if one.endpoint is not None:
        return f"asked at {one.endpoint.host}, not trained"
    return "asked in words, not trained" if one.ask.words and not one.trained else ""


def setting_note(one: Contender, metric: str) -> str:
    said = [] if one.rate is None else [f"learning rate {one.rate:.2g}"]
    if one.validation is not None and one.validation_examples is not None:
        figure = f"{metric_name(metric)} {share(one.validation)}"
        said.append(f"{figure} on {count(one.validation_examples)} validation texts")
    return "; ".join(said)


def why_left_out(one: Dropped) -> str:
    match one.why:
        case "memory":
            assert one.needed is not None
            assert one.available is not None
            said = f"it needs about {size(one.needed)} of memory, and {size(one.available)} is available"
            return said if one.smaller is None else f"{said}; {in_int8(one.smaller)}"
        case "start":
            return "there was no time left to start"
        case "train":
            return "there was no time left to train and evaluate"
        case "overrun":
            return "it was stopped, because it took longer than the time left"
        case "ended":
            return "the choice was ended before"
        case "error":
            return one.message
        case "words":
            return (
                "a language model cannot answer with the labels, because they are not words or begin alike; `--words` "
                "gives each label a word"
            )
        case "latency":
            return f"an answer takes {one.milliseconds:,.3g} ms, which is more than allowed"


def _is_asked(name: str) -> bool:
    stem = name.partition(ON)[0]
    return any(stem == key or stem.startswith(f"{key}-") for key, kind in METHODS.items() if kind.head == "words")


def titled(one: Comparison) -> Comparison:
    """Return a comparison in which the methods' titles (`LoRA`) replace their names (`lora`)."""
    return replace(one, first=title(one.first), second=title(one.second))


def title(name: str) -> str:
    """Return a method's title: with its learning rate if not the default, its examples in the prompt, and its backbone.

    The name of a baseline is returned unchanged.
    """
    stem, on, backbone = name.partition(ON)
    if on and (stem in METHODS or title(stem) != stem):
        return f"{title(stem)} on {backbone}"
    if name in METHODS:
        return METHODS[name].title
    for method, kind in METHODS.items():
        rate = name.removeprefix(f"{method}-")
        if rate != name and rate[:1].isdigit():
            shots = rate.removesuffix(SHOTS)
            return (
                f"{kind.title} at learning rate {rate}"
                if shots == rate
                else f"{kind.title} with {shots} examples in the prompt"
            )
    return name
