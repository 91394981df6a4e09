"""The conclusion of a study, in words.

Every statement about two methods follows from the verdict of a paired comparison; only the verdict "equivalent" makes a
report call methods equivalent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isnan

from afina.data.label_words import needs_words, no_words_note
from afina.data.reading_options import ReadingOptions
from afina.errors import NotFound
from afina.methods import METHODS
from afina.report.answer_costs import faster_sentence
from afina.report.arms import Arm, is_curve
from afina.report.formatting import (
    count,
    counted,
    figure_with_interval,
    listed,
    money,
    percent,
    seconds_in_words,
    share,
    size,
    span,
)
from afina.report.headline import fee_per_1000, figures_of
from afina.report.verdicts import ONE_SEED, SIGNIFICANT, Verdicts, alike, learning_curve_sentences, undecided_clause
from afina.stats.comparison import Comparison
from afina.stats.metrics import METRICS
from afina.studies.baselines import MeasuredBaseline
from afina.studies.descriptions import Failure
from afina.studies.runs.inputs import is_encoder
from afina.studies.runs.record import Record

MOST = 3  # failed runs that the conclusion names; the report lists all


def sentences(
    arms: Sequence[Arm],
    verdicts: Verdicts,
    failed: Sequence[Failure] = (),
    waiting: int = 0,
    against: Sequence[Comparison] = (),
) -> list[str]:
    """Return the sentences of the conclusion, the recommended method first.

    `waiting`: how many runs have not finished. `against`: the comparisons with the best baseline without a language
    model, for a study of one method.
    """
    if not arms:
        return []
    field = _field(arms, verdicts)
    if isnan(field.leader.headline):
        return [field.best()]
    ground = [field.leader, *field.others]
    compared = field.compared() if field.others or not against else f"{against[0].sentence}."
    faster = faster_sentence(field.leader, field.others, verdicts)
    absent = _absent(arms, arms if is_curve(arms) else ground, failed, waiting)
    steps = [field.answer(), compared, field.cheaper(), field.fees(), faster, field.settle()]
    return [sentence for sentence in (*steps, *learning_curve_sentences(arms, verdicts), absent) if sentence]


def unasked(arms: Sequence[Arm], data: ReadingOptions) -> list[str]:
    """Return a sentence on the accuracy that is lost because labels are not words and a head starts at random."""
    for arm in arms:
        record = arm.record
        pairs = data.text_pair is not None or "text_pair" in record.columns
        by_steps = record.steps and record.fitted is None and _starts_from_words(record)
        if by_steps and needs_words(record.kind, record.label_names, pairs=pairs) and _is_decoder(record.backbone):
            return [no_words_note(record.label_names, record.trained_on)]
    return []


def _starts_from_words(record: Record) -> bool:
    prescribed = METHODS[record.method].head if record.method in METHODS else None
    return prescribed is None and not record.ask.words


def _is_decoder(backbone: str) -> bool:
    """Whether a backbone is a decoder (causal language model); False also if the backbone's directory is gone."""
    try:
        return is_encoder(backbone) is False
    except NotFound:
        return False


def of_one_method(arm: Arm, baselines: Sequence[MeasuredBaseline], against: Sequence[Comparison] = ()) -> Iterator[str]:
    """Yield sentences on the only method of a study; `against` has its comparison with the best baseline."""
    record, metric = arm.record, METRICS[arm.record.metric]
    interval = arm.interval(record.metric)
    between = f" (95 % interval {span(interval)})" if interval else ""
    seeds = "one seed" if len(arm.seeds) == 1 else f"mean of {len(arm.seeds)} seeds"
    texts = counted(record.examples, "evaluation text")
    yield f"{arm.label}: {metric.words} {share(arm.headline)}{between} on {texts}, {seeds}."
    if baselines:
        figures = {
            baseline.record.name: baseline.beside(arm.results[0]).record.metrics[record.metric]
            for baseline in baselines
        }
        defined = [f"{name} {share(figure)}" for name, figure in figures.items() if not isnan(figure)]
        first = [f"Without a language model: {listed(defined)}."] if defined else []
        yield " ".join([*first, *(f"{comparison.sentence}." for comparison in against)])
    _, time, memory = figures_of(arm)
    if arm.trained:
        trained = f"{count(record.trainable)} parameters ({percent(100 * record.trainable / record.total)} %)"
        yield (
            f"Trained {trained} on {count(record.trained_on)} texts{_taught(record)} in {time.value}; memory "
            f"{memory.value} ({memory.note})."
        )


def _taught(record: Record) -> str:
    if record.teacher is None:
        return ""
    more = f" and {count(record.unlabelled.texts)} texts without labels" if record.unlabelled else ""
    return f"{more}, with the answers of a teacher,"


def leading(arms: Sequence[Arm], verdicts: Verdicts) -> tuple[str, list[Arm]]:
    """Return the result of a study in about ten words, and its methods: the one that the words name first is first.

    Next come the methods that can be compared with the first one, then all others.
    """
    field = _field(arms, verdicts)
    apart = [arm for arm in arms if arm is not field.leader and arm not in field.others]
    return field.headline(), [field.leader, *sorted(field.others, key=_rank), *sorted(apart, key=_rank)]


def _field(arms: Sequence[Arm], verdicts: Verdicts) -> _Field:
    """Return the largest group of comparable methods.

    Of methods with the same headline metric to four digits, the leader is a trained one, then that with the fewest
    trainable parameters.
    """
    ground = max(alike(arms), key=_weight)
    best = min(ground, key=_rank)
    tied = [arm for arm in ground if arm is best or _Field(best, (arm,), verdicts).tied]
    leader = min(tied, key=lambda arm: (not arm.trained, arm.record.trainable, -arm.gain))
    return _Field(leader, tuple(arm for arm in ground if arm is not leader), verdicts)


def undefined(metric: str) -> str:
    """Return the reason why no method is named, without its first word."""
    return f"method can be called best: {METRICS[metric].words} is undefined, because it needs {METRICS[metric].needs}"


def _rank(arm: Arm) -> tuple[float, bool, int]:
    return (-arm.gain, not arm.trained, arm.record.trainable)


def _weight(group: Sequence[Arm]) -> tuple[bool, int, int, int]:
    return not isnan(group[0].headline), sum(arm.trained for arm in group), len(group), group[0].size


@dataclass(frozen=True, eq=False)
class _Field:
    """The method with the best headline metric, and the other methods that can be compared with it."""

    leader: Arm
    others: tuple[Arm, ...]
    verdicts: Verdicts

    def headline(self) -> str:
        """The best method and its figure, with the methods against which the verdict is undecided."""
        return f"{self.best()}{undecided_clause([arm.label for arm in self.of('undecided') if arm not in self.tied])}"

    def best(self) -> str:
        arm, name = self.leader, self.leader.record.metric
        metric = METRICS[name]
        if isnan(arm.headline):
            return f"No {undefined(name)}."
        figure = figure_with_interval(name, arm.headline, arm.interval(name))
        if not self.others:
            return f"{arm.label}: {metric.words} {figure}"
        if len(self.of("better")) == len(self.others):
            return f"Use {arm.label}: {metric.words} {figure}"
        if self.tied:
            tied = [other.label for other in self.tied]
            return f"{listed([arm.label, *tied])} have the same {metric.words}: {figure}"
        return f"{arm.label} has the {'lowest' if metric.lower else 'highest'} {metric.words}: {figure}"

    def answer(self) -> str:
        seeds = f" (mean of {len(self.leader.seeds)} seeds)" if len(self.leader.seeds) > 1 else ""
        return f"{self.best()} on {counted(self.leader.record.examples, 'evaluation text')}{seeds}."

    def compared(self) -> str:
        arm, better, level, open_ = self.leader, self.of("better"), self.of("equivalent"), self.of("undecided")
        if not self.others:
            return f"There is no other method to compare {arm.label} with."
        mine = f"{arm.label} ({share(arm.headline)})"
        said = [f"{mine} is better than {_named(better)}."] if better else []
        if level:
            verb = "is" if len(level) == 1 else "are"
            said.append(f"{_named(level)} {verb} equivalent to {mine} within {self.margin}.")
        said += [f"It is undecided whether {mine} is better than {_named(open_, 'or')}."] if open_ else []
        return " ".join([*said, *([SIGNIFICANT] if better else [])])

    @property
    def tied(self) -> list[Arm]:
        """The methods with the leader's headline metric to four digits that are not significantly worse."""
        alike = share(self.leader.headline)
        return [arm for arm in self.others if share(arm.headline) == alike and arm not in self.of("better")]

    def cheaper(self) -> str:
        """A sentence on the cheapest method that is as good as the leader; empty if there is nothing to say.

        In this order: an equivalent method, an undecided one, one that is worse by less than the margin.
        """
        better = self.of("better")
        for those, good in (
            (self.of("equivalent"), "is equivalent and costs less"),
            (self.of("undecided"), "costs less, and whether it is as good is undecided"),
            ([arm for arm in better if self._against[arm.label].small], f"is worse by less than {self.margin}, "
             "and costs less"),
        ):  # fmt: skip
            saving = [arm for arm in those if _costs_less(arm, self.leader)]
            if saving:
                arm = min(saving, key=lambda cheap: (cheap.record.trainable, -cheap.gain))
                return f"{arm.label} {good}: {_costs(arm, self.leader)}."
        dearer = [arm for arm in better if arm.trained and _costs_less(arm, self.leader)]
        return "No cheaper method is as good." if dearer and not self.fees() else ""

    def fees(self) -> str:
        """A sentence on the costs of a model behind an API and of a local method that may be as good; "" if none."""
        asks = _asks(self.leader)
        rivals = [arm for arm in (*self.of("equivalent"), *self.of("undecided")) if _asks(arm) != asks]
        if not rivals:
            return ""
        api, local = (self.leader, rivals[0]) if asks else (rivals[0], self.leader)
        fee = api.mean(fee_per_1000)
        cost = "costs an unknown fee per text" if fee is None else f"costs {money(fee)} per 1,000 texts"
        time = local.mean(lambda record: record.seconds.train)
        trains = f"needed {seconds_in_words(time)} of training" if local.trained and time else "needs no training"
        return f"{api.label} needs no training, and {cost}; {local.label} {trains}, and has no fee per text."

    def settle(self) -> str:
        open_, said = self.of("undecided"), []
        if open_:
            said.append(f"{self._against[open_[0].label].sentence}.")
        if (more := len(open_) - 1) > 0:
            said.append(
                f"{counted(more, 'more comparison')} with {self.leader.label} {'is' if more == 1 else 'are'} "
                "undecided: see Verdicts in the report."
            )
        return " ".join([*said, *([ONE_SEED] if len(self.leader.seeds) == 1 else [])])

    def of(self, verdict: str) -> list[Arm]:
        """The methods against which the leader has the given verdict, the method with the best metric first."""
        there = [arm for arm in self.others if self._against[arm.label].seen_from(self.leader.label) == verdict]
        return sorted(there, key=lambda arm: -arm.gain)

    @property
    def margin(self) -> str:
        return next((comparison.margin_in_words for comparison in self._against.values()), "")

    @cached_property
    def _against(self) -> dict[str, Comparison]:
        pairs = {arm.label: self.verdicts.between(self.leader.label, arm.label) for arm in self.others}
        return {name: comparison for name, comparison in pairs.items() if comparison is not None}


def _costs(arm: Arm, dear: Arm) -> str:
    """Return a clause that compares the costs of two methods; time and memory only if measured on one machine."""
    fee, other = arm.mean(fee_per_1000), dear.mean(fee_per_1000)
    if fee is not None and other is not None:
        return f"{money(fee)} per 1,000 texts instead of {money(other)}"
    if not arm.trained:
        return "it trains nothing"
    mine, yours = arm.record, dear.record
    said = [f"{percent(100 * mine.trainable / mine.total)} % of the parameters instead of "
            f"{percent(100 * yours.trainable / yours.total)} %"]  # fmt: skip
    pairs = _measured(arm, dear)
    if "seconds" in pairs:
        said.append("{:,.0f} s of training instead of {:,.0f} s".format(*pairs["seconds"]))
    if "memory" in pairs:
        said.append("{} of memory instead of {}".format(*map(size, pairs["memory"])))
    return ", ".join(said)


def _asks(arm: Arm) -> bool:
    return arm.record.endpoint is not None


def _costs_less(arm: Arm, dear: Arm) -> bool:
    """Whether `arm` trains fewer parameters than `dear` and takes no more time and memory where these are comparable.

    Two models behind an API are compared by their fees. A fee is not compared with the costs of a local method.
    """
    if _asks(arm) or _asks(dear):
        fees = (arm.mean(fee_per_1000), dear.mean(fee_per_1000))
        return fees[0] is not None and fees[1] is not None and fees[0] < fees[1]
    if not arm.trained:
        return dear.trained
    less = arm.record.trainable < dear.record.trainable
    return less and all(mine <= yours for mine, yours in _measured(arm, dear).values())


def _measured(arm: Arm, dear: Arm) -> dict[str, tuple[float, float]]:
    if len(arm.machines | dear.machines) > 1:
        return {}
    values = {
        name: (arm.mean(value), dear.mean(value))
        for name, value in (
            ("seconds", lambda record: record.seconds.train if record.steps else None),
            ("memory", lambda record: record.memory.rss_peak),
        )
    }
    return {name: (mine, yours) for name, (mine, yours) in values.items() if mine is not None and yours is not None}


def _absent(arms: Sequence[Arm], ground: Sequence[Arm], failed: Sequence[Failure], waiting: int) -> str:
    apart = [arm.label for arm in arms if arm not in ground]
    lost = [f"{failure.name}, seed {failure.seed}" for failure in failed]
    parts = [f"{listed(apart)}, measured on other texts or seeds"] if apart else []
    if lost:
        named = f"{'; '.join(lost[:MOST])}{'; ...' * (len(lost) > MOST)}"
        parts.append(f"{counted(len(lost), 'run')} that failed ({named})")
    parts += [f"{counted(waiting, 'run')} that {'has' if waiting == 1 else 'have'} not finished"] if waiting else []
    return f"Not included: {'; '.join(parts)}." if parts else ""


def _named(arms: Sequence[Arm], last: str = "and") -> str:
    return listed([f"{arm.label} ({share(arm.headline)})" for arm in arms], last)
