"""Prometheus metrics of a server.

The number of label values is bounded. Texts and model names from requests are never label values.
"""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from math import inf
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from afina import meter
from afina.errors import AfinaError
from afina.models.answer_profile import AnswerProfile
from afina.models.counted_kinds import COUNTED_KINDS
from afina.stats.drift import Drift

if TYPE_CHECKING:
    from afina.server.requests import AcceptedRequest

NAMED = 20
"""Largest number of versions that cannot be served and are named by the label `version`."""

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

FailedPart = Literal["line", "compute", "step", "watch", "store", "golden test", "request", "stream", "bulk"]
"""The operations of a server that may fail unexpectedly, for the log and the metrics.

`line` takes the next work items from the queue, `compute` computes a batch, `step` computes a step of generations,
`watch` is the batch listener, and `store` reads the store.
"""

_PROBED = ("none", "passed", "failed", "damaged", "not replayed")
_CHECKED = ("held", "violated", "unchecked")
_CLOSED = ("slow", "crowded", "full", "unread", "malformed")

_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
_SHARES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


class ComputedBatch(NamedTuple):
    """A batch that was computed.

    Attributes:
        texts: the number of texts whose last token was in the batch.
        budget: the largest number of tokens that the batch could have had.
        asked: for each text of a traced request: the request, the text's seconds in the queue before its first tokens
            were computed (0 for a later chunk of the text), and its number of tokens in the batch.
    """

    tokens: int
    texts: int
    budget: int
    seconds: float
    asked: Sequence[tuple[Any, float, int]] = ()


class ComputedStep(NamedTuple):
    """A step that computed the next token of all running generations, and new prompts.

    `clients` are new tokens; `firsts` the seconds from the arrival of a prompt to its first token.
    """

    tokens: int
    running: int
    seconds: float
    clients: Mapping[str, int]
    firsts: Sequence[float] = ()


CLIENTS, OTHERS = 200, "(others)"
"""The largest number of clients (or versions) that are label values, and the label value of all further ones."""

UNUSED = 600.0
"""The seconds without use after which a label value may give way: until then Prometheus has read its samples."""


class BoundedLabels:
    """At most `CLIENTS` values of a label of metrics. Thread-safe.

    A further value replaces the least recently used one, and its samples, if that was not used for `UNUSED` seconds.
    Otherwise the further value is `OTHERS`.
    """

    def __init__(
        self, label: str, metrics: Sequence[Counter | Histogram], clock: Callable[[], float] = meter.now
    ) -> None:
        self._label, self._metrics, self._clock = label, metrics, clock
        self._lock = threading.Lock()
        self._used: dict[str, float] = {}

    def of(self, value: str) -> str:
        with self._lock:
            now = self._clock()
            if value not in self._used and len(self._used) >= CLIENTS:
                oldest = next(iter(self._used))
                if now - self._used[oldest] < UNUSED:
                    return OTHERS
                del self._used[oldest]
                for metric in self._metrics:
                    metric.remove_by_labels({self._label: oldest})
            self._used.pop(value, None)  # the values are in the order of their last use
            self._used[value] = now
            return value


class ClientUsage:
    """Counters by client, a label value from its first request with a valid API key, which only operators create."""

    def __init__(self, registry: CollectorRegistry) -> None:
        what = {
            "requests": "Requests of a client, answered or refused.",
            "texts": "Texts of a client that were accepted.",
            "tokens": "Tokens of accepted texts of a client, without the tokens of shadow versions.",
            "generated_tokens": "Tokens that were generated for a client, without those of shadow versions.",
        }
        counters = [
            Counter(f"afina_client_{name}", text, ("client",), registry=registry) for name, text in what.items()
        ]
        self._requests, self._texts, self._tokens, self._generated = counters
        self._clients = BoundedLabels("client", counters)

    def requested(self, client: str) -> None:
        self._requests.labels(self._clients.of(client)).inc()

    def follow(self, accepted: AcceptedRequest) -> None:
        label = self._clients.of(accepted.request.key.client)
        self._texts.labels(label).inc(len(accepted.texts))
        self._tokens.labels(label).inc(sum(accepted.tokens))

    def generated(self, tokens: Mapping[str, int]) -> None:
        for client, count in tokens.items():
            self._generated.labels(self._clients.of(client)).inc(count)


class AbstainingUsage:
    """Counts of clients' texts for versions that abstain, by whether the version answered the text."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._texts = Counter(
            "afina_abstaining_texts",
            "Texts for versions that abstain, by whether they were answered: yes or no.",
            ("version", "answered"),
            registry=registry,
        )
        self._versions = BoundedLabels("version", (self._texts,))

    def follow(self, accepted: AcceptedRequest) -> None:
        if accepted.objective.abstain_below is not None:
            for future in accepted.futures:
                future.add_done_callback(partial(self._computed, accepted.receipt.version))

    def _computed(self, version: str, computed: Future[Any]) -> None:
        answer = None if computed.cancelled() or computed.exception() else computed.result()
        if answer is not None and not isinstance(answer, AfinaError):
            self._texts.labels(self._versions.of(version), "yes" if answer.is_answered else "no").inc()


class VersionUsage:
    """Counts and durations of answers, of canary versions and of the versions in production beside them."""

    def __init__(self, registry: CollectorRegistry, clock: Callable[[], float] = meter.now) -> None:
        self._clock = clock
        self._answers = Counter(
            "afina_version_answers",
            "Answers of versions of a model with a canary, by outcome: answered, failed or cancelled.",
            ("version", "outcome"),
            registry=registry,
        )
        self._seconds = Histogram(
            "afina_version_seconds",
            "Seconds from the queue to the answer, of versions of a model with a canary.",
            ("version",),
            buckets=_SECONDS,
            registry=registry,
        )
        self._versions = BoundedLabels("version", (self._answers, self._seconds), clock)

    def follow(self, accepted: AcceptedRequest) -> None:
        if accepted.compared:
            for future in accepted.futures:
                future.add_done_callback(partial(self.answered, accepted.receipt.version, self._clock()))

    def answered(self, version: str, began: float, answer: Future[Any]) -> None:
        """Count an answer whose text was put into the queue at the time `began`."""
        version = self._versions.of(version)
        if answer.cancelled():
            outcome = "cancelled"
        else:
            failed = answer.exception() is not None or isinstance(answer.result(), AfinaError)
            outcome = "failed" if failed else "answered"
            self._seconds.labels(version).observe(self._clock() - began)
        self._answers.labels(version, outcome).inc()


def _counter(name: str, about: str, label: str, values: Sequence[str], registry: CollectorRegistry) -> Counter:
    """Return a counter whose samples are 0 from the start: Prometheus' `increase` ignores the first sample."""
    counter = Counter(name, about, (label,), registry=registry)
    for value in values:
        counter.labels(value)
    return counter


class Metrics:
    """The metrics of one server, in a new Prometheus registry; `seconds` were spent on batches and generation steps."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.seconds = 0.0
        here = self.registry
        ProcessCollector(registry=here)
        self.requests = Counter("afina_requests", "Requests.", ("route", "status"), registry=here)
        self.latency = Histogram(
            "afina_request_seconds",
            "Seconds from the header of a request to the end of its answer.",
            ("route",),
            buckets=_SECONDS,
            registry=here,
        )
        self.tokens = Counter("afina_tokens", "Tokens that were computed.", registry=here)
        self.texts = Counter("afina_texts", "Texts that were computed.", registry=here)
        self.batch = Histogram(
            "afina_batch_seconds", "Seconds for the computation of a batch.", buckets=_SECONDS, registry=here
        )
        self.fill = Histogram(
            "afina_batch_fill",
            "Tokens of a batch, as a share of the token budget.",
            buckets=_SHARES,
            registry=here,
        )
        self.generated = Counter("afina_generated_tokens", "Tokens that were generated.", registry=here)
        self.first = Histogram(
            "afina_first_token_seconds",
            "Seconds from the arrival of a text in the queue to the first token of its answer.",
            buckets=_SECONDS,
            registry=here,
        )
        self.step = Histogram(
            "afina_step_seconds",
            "Seconds for one token of every running generation.",
            buckets=_SECONDS,
            registry=here,
        )
        self.refused = Counter("afina_refused", "Requests that were refused.", ("reason",), registry=here)
        about = "Connections that the server closed."
        self.closed = _counter("afina_connections_closed", about, "reason", _CLOSED, here)
        about = "Unexpected failures: see the log."
        self.failures = _counter("afina_failures", about, "what", get_args(FailedPart), here)
        self.probes = _counter("afina_probes", "Golden tests of versions, by outcome.", "outcome", _PROBED, here)
        about = "Complete JSON answers, by the outcome of the check against their schema."
        self.schema_checks = _counter("afina_schema_checks", about, "outcome", _CHECKED, here)
        self.shadowed = Counter(
            "afina_shadow_texts", "Texts for a shadow version, by outcome.", ("outcome",), registry=here
        )
        self.usage = ClientUsage(here)
        self.versions = VersionUsage(here)
        self.abstaining = AbstainingUsage(here)
        self.observers = (self.usage.follow, self.versions.follow, self.abstaining.follow)
        self.switches = Counter("afina_switches", "References that now point to another version.", registry=here)

    def computed(self, batch: ComputedBatch) -> None:
        self.tokens.inc(batch.tokens)
        self.texts.inc(batch.texts)
        self.seconds += batch.seconds
        self.batch.observe(batch.seconds)
        self.fill.observe(min(1.0, batch.tokens / batch.budget))

    def stepped(self, step: ComputedStep) -> None:
        self.generated.inc(step.tokens)
        self.seconds += step.seconds
        self.step.observe(step.seconds)
        for seconds in step.firsts:
            self.first.observe(seconds)
        self.usage.generated(step.clients)

    def watch(
        self,
        values: Callable[[], Mapping[str, float]],
        damaged: Callable[[], Sequence[str]],
        sizes: Callable[[], Mapping[str, int]],
    ) -> None:
        """Add gauges, read at each scrape: values by name, versions that cannot be served, and bytes by precision."""
        self.registry.register(_Watched(values, damaged, sizes))

    def watch_answers(self, counts: Callable[[], Sequence[VersionAnswers]]) -> None:
        """Add the counts of versions' answers, which are read at each scrape."""
        self.registry.register(_WatchedAnswers(counts))

    def text(self) -> bytes:
        return generate_latest(self.registry)


@dataclass(frozen=True)
class _Watched(Collector):
    values: Callable[[], Mapping[str, float]]
    damaged: Callable[[], Sequence[str]]
    sizes: Callable[[], Mapping[str, int]]

    def collect(self) -> Iterable[Metric]:
        for name, value in self.values().items():
            yield GaugeMetricFamily(name, name.removeprefix("afina_").replace("_", " ").capitalize() + ".", value)
        damaged = self.damaged()
        about = "Versions that cannot be served: see the log."
        yield GaugeMetricFamily("afina_versions_not_served", about, len(damaged))
        named = GaugeMetricFamily("afina_version_not_served", "A version that cannot be served.", labels=("version",))
        for version in damaged[:NAMED]:
            named.add_metric((version,), 1.0)
        yield named
        about = "Bytes of the backbone in memory, by the precision of its frozen weights."
        sizes = GaugeMetricFamily("afina_backbone_bytes", about, labels=("precision",))
        for precision, size in self.sizes().items():
            sizes.add_metric((precision,), size)
        yield sizes


class VersionAnswers(NamedTuple):
    """The counts of the answers of a version since its first answer, for the metrics.

    `score` names the number by which answers are counted, such as `confidence`. `drift` is that of the last days; None:
    the version has no reference.
    """

    version: str
    score: str
    answers: AnswerProfile
    score_sum: float
    drift: Drift | None


LABELS_NAMED = 20
"""The largest number of labels of a version that are label values: those that occur most."""


@dataclass(frozen=True)
class _WatchedAnswers(Collector):
    counts: Callable[[], Sequence[VersionAnswers]]

    def describe(self) -> Iterable[Metric]:
        """Return no metric, so that the counts are not read when the collector is registered."""
        return ()

    def collect(self) -> Iterable[Metric]:
        found, about = self.counts(), "of clients' texts that were answered, for versions with an alias."
        for score in sorted({kind.score_name for kind in COUNTED_KINDS.values()}):
            by_score = HistogramMetricFamily(f"afina_answer_{score}", f"The {score} {about}", labels=("version",))
            for one in found:
                if one.score == score:
                    by_score.add_metric((one.version,), _buckets(one.answers), one.score_sum)
            yield by_score
        labels = CounterMetricFamily("afina_answer_labels", f"Labels {about}", labels=("version", "label"))
        for one in found:
            for label, count in _named_labels(one.answers.labels):
                labels.add_metric((one.version, label), count)
        yield labels
        yield from _drifts([(one.version, one.drift) for one in found if one.drift is not None])


def _buckets(answers: AnswerProfile) -> list[tuple[str, float]]:
    ends = [*(repr(edge) for edge in answers.edges), "+Inf"]
    return [*zip(ends, map(float, accumulate(answers.scores)), strict=True)]


def _named_labels(counts: Mapping[str, int]) -> Iterable[tuple[str, int]]:
    ranked = sorted(counts.items(), key=lambda one: -one[1])
    yield from ranked[:LABELS_NAMED]
    if rest := ranked[LABELS_NAMED:]:
        yield OTHERS, sum(count for _, count in rest)


def _drifts(found: Sequence[tuple[str, Drift]]) -> Iterable[Metric]:
    about = "Share of texts by which the last days differ from the evaluation texts, by scores, labels or tokens."
    distances = GaugeMetricFamily("afina_drift_distance", about, labels=("version", "of"))
    about = "Smallest p value of the drift tests of a version, corrected for the number of tests."
    smallest = GaugeMetricFamily("afina_drift_p", about, labels=("version",))
    about = "Whether a difference from the evaluation texts is significant and not small: 1 or 0."
    noticed = GaugeMetricFamily("afina_drift_noticed", about, labels=("version",))
    for version, drift in found:
        for test in drift.tests:
            distances.add_metric((version, test.of), test.distance)
        smallest.add_metric((version,), drift.p)
        noticed.add_metric((version,), float(drift.state == "drift"))
    yield from (distances, smallest, noticed)


@dataclass(frozen=True)
class Traffic:
    """The answers of a server since its start, from the text of its metrics.

    Attributes:
        requests: answered requests of clients for predictions and generated texts; monitoring does not count.
        refused: requests that were refused, for any reason.
        tokens: tokens that were computed or generated.
        median: seconds within which half of the requests were answered: the upper end of a bucket of the histogram.
            None: there was no request, or the last bucket, which has no upper end, holds the median.
        percentile: the same for 95 % of the requests.
    """

    requests: int
    refused: int
    texts: int
    tokens: int
    median: float | None
    percentile: float | None

    @classmethod
    def of(cls, text: str, paths: Collection[str]) -> Traffic:
        """Return the traffic of these routes from the text that `GET /metrics` answers."""
        totals: collections.defaultdict[str, float] = collections.defaultdict(float)
        buckets: collections.Counter[float] = collections.Counter()
        for family in text_string_to_metric_families(text):
            for one in family.samples:
                if one.name == "afina_request_seconds_bucket":
                    if one.labels["route"] in paths:
                        buckets[float(one.labels["le"])] += int(one.value)
                elif one.name != "afina_requests_total" or one.labels["route"] in paths:
                    totals[one.name] += one.value
        return cls(
            requests=int(totals["afina_requests_total"]),
            refused=int(totals["afina_refused_total"]),
            texts=int(totals["afina_texts_total"]),
            tokens=int(totals["afina_tokens_total"] + totals["afina_generated_tokens_total"]),
            median=_quantile(buckets, 0.5),
            percentile=_quantile(buckets, 0.95),
        )


def _quantile(buckets: Mapping[float, int], share: float) -> float | None:
    """Return the least upper end of the cumulative buckets that hold this share of all values."""
    total = buckets.get(inf, 0)
    ends = [end for end in sorted(buckets) if end < inf and total and buckets[end] >= share * total]
    return ends[0] if ends else None
