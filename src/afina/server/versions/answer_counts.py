"""Counts of each version's answers to clients, by day: of scores, labels and tokens, without any text.

Only versions with an alias are counted. Golden tests, and the texts that a shadow version computes, do not count. A
server keeps the counts in memory: they begin anew when the server starts.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import numpy as np

from afina.engine.mixed_batches import Prediction
from afina.models import objectives
from afina.models.answer_profile import AnswerProfile, AnswerTally, token_groups
from afina.models.counted_kinds import COUNTED_KINDS
from afina.models.objective import Objective
from afina.server import problems
from afina.server.metrics import VersionAnswers
from afina.server.requests import AcceptedRequest
from afina.server.versions.served_answers import KEPT_DAYS, WINDOW_DAYS, ServedAnswers
from afina.stats.drift import Drift
from afina.store.versions import Version

MOST_VERSIONS = 200
"""The largest number of versions whose answers are counted. A further version replaces the one that was counted first.
"""

REFRESH = timedelta(minutes=1)  # the time after which the metrics compute the drift of a version again

Clock = Callable[[], datetime]
now_in_utc: Clock = partial(datetime.now, UTC)


class VersionCounts:
    """The counts of one version's answers, by day in UTC; `reference` are those of evaluation texts. Thread-safe."""

    def __init__(self, objective: Objective, reference: AnswerProfile | None, clock: Clock) -> None:
        self.objective, self.kind = objective, COUNTED_KINDS[objective.kind]
        self.reference, self._clock = reference, clock
        self.edges = reference.edges if reference is not None else self.kind.edges(objective)
        self.since = clock()
        self._by_day: dict[int, AnswerTally] = {}
        self._all, self._sum = AnswerTally(self.edges), 0.0
        self._drift: Drift | None = None
        self._drift_at = self.since
        self._lock = threading.Lock()

    def count(self, answer: Mapping[str, Any], groups: np.ndarray) -> None:
        score, labels = self.kind.score_of(answer), self.kind.labels_of(answer)
        with self._lock:
            today = self._clock().toordinal()
            if today not in self._by_day:
                self._by_day = {day: one for day, one in self._by_day.items() if day > today - KEPT_DAYS}
                self._by_day[today] = AnswerTally(self.edges)
            self._by_day[today].add(score, labels, groups)
            self._all.add(score, labels)
            self._sum += score

    def within(self, days: int) -> AnswerProfile:
        """Return the counts of the last `days` days, today included."""
        names = self.kind.labels(self.objective)
        total = AnswerProfile.empty(self.edges, names)
        with self._lock:
            first = self._clock().toordinal() - days + 1
            for day, tally in self._by_day.items():
                if day >= first:
                    total = total.plus(tally.profile(names))
        return total

    def for_metrics(self, version: str) -> VersionAnswers:
        with self._lock:
            total, score_sum = self._all.profile(self.kind.labels(self.objective)), self._sum
        return VersionAnswers(version, self.kind.score_name, total, score_sum, self._recent_drift())

    def _recent_drift(self) -> Drift | None:
        """Return the drift of the last WINDOW_DAYS days, at most a minute old: it may take seconds for all versions."""
        now = self._clock()
        if self.reference is not None and (self._drift is None or now - self._drift_at > REFRESH):
            self._drift = self.reference.drift(self.within(WINDOW_DAYS), one_label=self.objective.one_label)
            self._drift_at = now
        return self._drift


class AnswerCounts:
    """The counts of all versions. Thread-safe."""

    def __init__(self, clock: Clock = now_in_utc) -> None:
        self._clock = clock
        self._by_version: dict[tuple[str, str], VersionCounts] = {}
        self._lock = threading.Lock()

    def follow(self, accepted: AcceptedRequest) -> None:
        """Count each text of a request once it is answered, without waiting."""
        if not accepted.counted or accepted.objective.kind not in COUNTED_KINDS:
            return
        manifest, digest = accepted.manifest, accepted.lease.digest
        counts = self._by_version_of(accepted.receipt.version, digest, accepted.objective, manifest.answers)
        for encoded, future in zip(accepted.encoded, accepted.futures, strict=True):
            future.add_done_callback(partial(_count, counts, token_groups(encoded.tokens)))

    def served(self, version: Version, alias: str, days: int) -> ServedAnswers:
        """Return the counts of a version in the last days. Raises InvalidData if its answers are not counted."""
        made = objectives.make(version.manifest["label_names"], version.manifest.get("objective"))
        if made.kind not in COUNTED_KINDS:
            raise problems.ANSWERS_NOT_COUNTED(name=version.name, kind=made.kind)
        stored = version.manifest.get("answers")
        reference = None if stored is None else AnswerProfile.model_validate(stored)
        known = self._by_version.get((str(version), version.digest))
        counts = known or VersionCounts(made, reference, self._clock)
        return ServedAnswers(
            name=version.name,
            alias=alias,
            version=version.number,
            digest=version.digest,
            kind=made.kind,
            score=COUNTED_KINDS[made.kind].score_name,
            one_label=made.one_label,
            days=days,
            since=known.since if known else None,
            reference=reference,
            answers=counts.within(days),
        )

    def for_metrics(self) -> Sequence[VersionAnswers]:
        with self._lock:
            known = [*self._by_version.items()]
        return [one.for_metrics(version) for (version, _), one in known]

    def _by_version_of(
        self, version: str, digest: str, objective: Objective, reference: AnswerProfile | None
    ) -> VersionCounts:
        with self._lock:
            if (version, digest) not in self._by_version:
                while len(self._by_version) >= MOST_VERSIONS:
                    del self._by_version[next(iter(self._by_version))]
                self._by_version[version, digest] = VersionCounts(objective, reference, self._clock)
            return self._by_version[version, digest]


def _count(counts: VersionCounts, groups: np.ndarray, answered: Future[Any]) -> None:
    """Count the answer of a future, unless the text was not answered. Called by the computing thread."""
    if answered.cancelled() or answered.exception() is not None:
        return
    outcome = answered.result()
    if isinstance(outcome, Prediction):
        counts.count(outcome.answer, groups)
