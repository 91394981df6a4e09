"""The core of the server, which computes the answers to clients' texts for all protocols.

The threads that call the core read the store, load adapters and tokenize texts. One further thread computes all
answers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Any

from afina.engine.engine import Engine
from afina.engine.generations import GeneratedText
from afina.engine.mixed_batches import Prediction
from afina.engine.residents import Lease
from afina.errors import AfinaError, Busy, NotFound
from afina.server import logs_and_traces, problems
from afina.server.line.computing import Batcher
from afina.server.line.queue import FairQueue
from afina.server.line.work import EngineComputer, GeneratedAnswer, Work, works_of
from afina.server.logs_and_traces import Traces
from afina.server.metrics import ComputedBatch, ComputedStep, FailedPart, Metrics
from afina.server.requests import (
    AcceptedRequest,
    Check,
    RequestEncoder,
    TextRequest,
    check_texts,
    most_tokens,
    no_check,
)
from afina.server.settings import Settings
from afina.server.tenants import Tenants, reference_of
from afina.server.versions.answer_counts import AnswerCounts
from afina.server.versions.canaries import Canaries
from afina.server.versions.golden_tests import LOADING, GoldenTests
from afina.server.versions.preloading import Preloading
from afina.server.versions.request_counts import RequestCounts
from afina.server.versions.served_versions import ServedVersions
from afina.server.versions.shadows import FAILED, RIDING, Shadows
from afina.server.versions.store_watcher import StoreWatcher
from afina.server.versions.store_writes import StoreWrites
from afina.store.adapter_store import AdapterStore
from afina.store.api_keys import Key
from afina.store.versions import CANARY, PRODUCTION, NameSummary, Reference, Version

__all__ = ["LOADING", "Core"]

Observer = Callable[[AcceptedRequest], None]
"""A function that is called with each request whose texts were put into the queue, and must return at once."""


class Core:
    """A server's engine, store, queue, API keys and metrics. Thread-safe between `start` and `close`."""

    def __init__(
        self, engine: Engine, store: AdapterStore, settings: Settings | None = None, traces: Traces | None = None
    ) -> None:
        self.engine, self.store, self.settings = engine, store, settings or Settings()
        self.traces = traces
        self.metrics = Metrics()
        chosen = self.settings
        line = FairQueue(chosen.batch_tokens, chosen.shared_tokens, chosen.delay, chosen.queue_tokens)
        failed = partial(logs_and_traces.note_failure, self.metrics)
        self.batching = Batcher(line, EngineComputer(engine), watch=self._count, failed=failed)
        self.current = ServedVersions(store, GoldenTests(engine, self.batching, self.metrics), self.metrics)
        self.canaries = Canaries(store, self.current)
        self._encoder = RequestEncoder(engine, chosen)
        self.shadows = Shadows(store, engine, self.current, self._encoder, self.batching, chosen, self.metrics)
        self.answers, self.requests = AnswerCounts(), RequestCounts()
        self.metrics.watch_answers(self.answers.for_metrics)
        followers = (self.shadows.follow, self.answers.follow, self.requests.follow)
        self._observers: Sequence[Observer] = (*self.metrics.observers, *followers)
        self.tenants = Tenants(store, chosen)
        self.metrics.watch(self._looked, lambda: self.current.damaged, lambda: engine.hosts.sizes)
        self.writes = StoreWrites(store)
        self._watcher = StoreWatcher(
            (self.tenants.refresh, self._follow_versions), chosen.every, partial(self.failed, "store")
        )
        self._preloading = Preloading(self.current, chosen.preload)
        self._draining = False
        self._noted: set[str] = set()

    def open_backbone(self) -> None:
        """Open the backbone in each precision of the store's adapters; only the first precision's errors are raised."""
        for error in self.engine.open_for_store():
            logs_and_traces.note("backbone not opened", logging.WARNING, problem=str(error))
        if not self.engine.hosts.all():
            about = "the store has no adapter of the backbone yet: the first adapter opens the backbone"
            logs_and_traces.note(about, backbone=self.engine.backbone.address)
        self._note_hosts()

    def _note_hosts(self) -> None:
        """Log the backbone's memory in each precision that was opened since the last call."""
        for precision, size in self.engine.hosts.sizes.items():
            if precision not in self._noted:
                self._noted.add(precision)
                about: dict[str, Any] = {
                    "backbone": self.engine.backbone.address,
                    "precision": precision,
                    "bytes": size,
                }
                if said := self.engine.hosts.copy_notes.get(precision):
                    about["copy"] = said
                logs_and_traces.note("backbone opened", **about)

    def start(self) -> None:
        self.batching.start()
        self._watcher.start()
        self._preloading.start()

    def close(self) -> None:
        """Accept no more requests, finish the accepted requests, and end all threads."""
        self._preloading.close()
        self.shadows.close()
        self.batching.close()
        self._watcher.close()
        self.writes.close()
        self.current.close()
        self.canaries.names.close()
        self.engine.close()
        if self.traces is not None:
            self.traces.close()

    def drain(self) -> None:
        """Report the server as not ready; requests that still arrive are answered."""
        self._draining = True

    def give_up(self, *, running: bool) -> None:
        """Refuse the requests in the queue and all new requests, and end the running generations if `running`.

        Texts that are being computed in one forward pass are still answered.
        """
        self.batching.give_up(running=running)

    @property
    def ready(self) -> bool:
        """Whether the server can answer, is not draining, has preloaded its models, and its store responds."""
        return self.follows and not self._draining and self._preloading.done

    @property
    def tried_preloading(self) -> bool:
        """Whether the server has tried at least once to load each model of `Settings.preload`."""
        return self._preloading.tried

    @property
    def follows(self) -> bool:
        return self.alive and self._watcher.answers

    @property
    def alive(self) -> bool:
        """Whether the computing thread and the store-watching thread run. The store itself need not respond."""
        return self.batching.alive and self._watcher.alive

    @property
    def held_names(self) -> set[str]:
        """Names of adapters (`client/task`) of which a version that was requested before is in memory."""
        return self.current.named({one.digest for one in self.engine.residents})

    def _follow_versions(self) -> None:
        self._note_hosts()
        self.writes.refresh()
        self.current.refresh()
        self.canaries.names.refresh()
        self.shadows.names.refresh()

    def failed(self, what: FailedPart, error: BaseException) -> None:
        """Count and log an unexpected error, but not its message, because the message may contain a client's text."""
        logs_and_traces.note_failure(self.metrics, what, error)

    def _count(self, computed: ComputedBatch | ComputedStep) -> None:
        if isinstance(computed, ComputedStep):
            self.metrics.stepped(computed)
            return
        self.metrics.computed(computed)
        if self.traces is not None:
            self.traces.computed(computed)

    def _looked(self) -> dict[str, float]:
        tokens, texts = self.batching.waiting
        residents = self.engine.residents
        counts = self.engine.counts
        running, held = self.batching.generating
        return {
            "afina_ready": float(self.ready),
            "afina_store_writable": float(self.writes.possible),
            "afina_queue_tokens": tokens,
            "afina_queue_texts": texts,
            "afina_generations_running": running,
            "afina_generations_waiting": held,
            "afina_cache_bytes": self.batching.computer.generations.bytes,
            "afina_adapters": len(residents),
            "afina_adapter_bytes": sum(one.size for one in residents),
            "afina_adapter_loads": counts.loads,
            "afina_adapter_evictions": counts.evictions,
            "afina_references_behind": self.current.behind,
            "afina_canaries": self.canaries.count,
            "afina_shadows_riding": self.shadows.count(RIDING),
            "afina_shadows_failed": self.shadows.count(FAILED),
        }

    def version(self, key: Key, model: str, sticky: str | None = None) -> Version:
        """Return the version that a model name means for an API key, or raise Missing.

        `sticky` is as in `TextRequest`.
        """
        return self._answering(reference_of(model, key), sticky)[1]

    def _answering(self, reference: Reference, sticky: str | None) -> tuple[Reference, Version]:
        """Return the reference and the version that answer: the canary's if the hash of `sticky` selects it."""
        if sticky is not None and (drawn := self.canaries.drawn(reference, sticky)) != reference:
            with suppress(AfinaError):  # a canary that cannot answer leaves the request to production
                version = self.find(drawn)
                self.current.demand(version)
                return drawn, version
        return reference, self.find(reference)

    def find(self, reference: Reference) -> Version:
        """Return the version that the server serves for a reference. Raises also Busy if the store does not respond."""
        if not self.current.knows(reference):
            self.demand_store()
        return self.current.find(reference)

    def demand_store(self) -> None:
        """Raise Busy if the store does not answer, so that no thread waits for a store that hangs."""
        if not self._watcher.answers:
            raise problems.STORE_SILENT()

    def listed(self, key: Key) -> Sequence[tuple[NameSummary, Mapping[str, Any]]]:
        """Return the models of the key's client for the backbone, each with a version's manifest.

        The version is that in production, or else the newest.
        """
        self.demand_store()
        try:
            names, manifests = self.store.list(key.client), self.store.served_manifests(key.client)
        except NotFound as error:
            if error.code != "client.missing":
                raise
            return []
        current = [(one, manifests.get(f"{one.name}@{one.aliases.get(PRODUCTION, one.newest)}", {})) for one in names]
        return [(one, manifest) for one, manifest in current if not self.engine.is_for_another(manifest)]

    def begin(self, requests: Sequence[TextRequest], check: Check = no_check) -> Sequence[AcceptedRequest]:
        """Accept requests, and put their texts into the queue. The caller must `close` each accepted request."""
        accepted = self.accept(requests, check)
        try:
            for request in accepted:
                self.submit(request)
        except BaseException:
            for request in accepted:
                request.close()
            raise
        return accepted

    def accept(self, requests: Sequence[TextRequest], check: Check = no_check) -> Sequence[AcceptedRequest]:
        """Find and load the adapter of each request, and tokenize its texts. The caller must `close` each of them.

        `check` is called with each accepted request, and raises an error to refuse the request.

        Raises:
            Missing: the key's client has no such model.
            InvalidData: a text or option is invalid or exceeds a limit, the request is larger than the key's rate, or
                the adapter does not give the kind of answer.
            Overloaded: the key has too few tokens left in this minute.
            AfinaError: errors of loading the adapter and of `check`.
        """
        accepted: list[AcceptedRequest] = []
        try:
            for request in requests:
                accepted.append(self._accept(request))
                check(accepted[-1])
        except BaseException:
            for each in accepted:
                each.close()
            raise
        return accepted

    def _accept(self, request: TextRequest) -> AcceptedRequest:
        key, texts, longest = request.key, request.texts, self.engine.backbone.longest
        check_texts(texts, self.settings)
        most = self.tenants.most(key, most_tokens(texts, request.generation, longest, self.settings))
        with self.batching.expecting():
            reference, version = self._answering(reference_of(request.model, key), request.sticky)
            self.current.demand(version)  # the version may have been damaged since the lookup
            lease = self.engine.lease(version)
            try:
                self._load(lease, version)
                accepted = self._encoder.accepted(request, lease, most)
                rest = most_tokens(texts[len(accepted.tokens) :], None, longest, self.settings)
                fewest = accepted.fewest(self.tenants.rate_of(key))
                accepted.reserve(self.tenants.reserve(key, accepted.needed, rest, fewest))
            except BaseException:
                lease.release()
                raise
            bare = reference == Reference(reference.name) and PRODUCTION in version.aliases
            if (bare or reference.alias == PRODUCTION) and not request.each_token:
                accepted.shadowed = reference.name
            accepted.counted = bool(version.aliases)
            accepted.compared = self.canaries.answers(reference.name) and (
                bare or reference.alias in (PRODUCTION, CANARY)
            )
            return accepted

    def _load(self, lease: Lease, version: Version) -> None:
        """Load the adapter of a version. A damaged version is loaded again only after a pause."""
        try:
            lease.resident(LOADING)
        except (Busy, NotFound):
            raise
        except AfinaError as error:
            self.current.distrust(version, error)
            raise

    def submit(self, accepted: AcceptedRequest) -> Sequence[Future[Any]]:
        """Put the texts of an accepted request into the queue, and return a future of each answer.

        The result of a future is a Prediction, a GeneratedText, or the AfinaError for a text that failed. If answers
        are generated, each text has `n` answers, and the answers of the first text are the first in the list.

        Raises Overloaded if the client's share of the queue is full, and Busy if the server is shutting down.
        """
        works = works_of(accepted, self.settings)
        accepted.futures = self.batching.submit(works)
        for number, work in enumerate(works):
            work.future.add_done_callback(partial(_give_back, accepted, number, work))
        for observer in self._observers:
            observer(accepted)
        return accepted.futures


def _give_back(accepted: AcceptedRequest, number: int, work: Work, answered: Future[Any]) -> None:
    """Stop counting, for the key's rate limit, the tokens that were reserved for an answer but not computed."""
    text, choice = divmod(number, accepted.answers)
    prompt = 0 if choice else accepted.tokens[text]
    new = work.generated if isinstance(work, GeneratedAnswer) else 0
    outcome = None if answered.cancelled() or answered.exception() else answered.result()
    if isinstance(outcome, GeneratedText):
        used = prompt + len(outcome.tokens)
    elif work.began or isinstance(outcome, Prediction):
        used = prompt + new
    else:
        used = 0
    assert accepted.reservation is not None
    accepted.reservation.give_back(prompt + accepted.longest - used)
