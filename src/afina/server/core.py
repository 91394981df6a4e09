"""Core: a client's texts to answers, whatever protocol they came in. Knows no protocol.

Reading the store, loading an adapter and counting tokens are done by whoever asks; one thread computes.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from afina.errors import AfinaError, Busy, CorruptAdapter, NotFound, Overloaded
from afina.inference import probes
from afina.models.manifest import Manifest
from afina.server import logs_and_traces
from afina.server.limits import Missing, Settings, Tenants, reference_of
from afina.server.logs_and_traces import TRACED_REQUEST, Traces
from afina.server.metrics import Metrics
from afina.server.queue import Batcher, ComputedBatch, FairQueue
from afina.server.requests import AcceptedRequest, Receipt, Text, TokenCounter, check_pairs, check_texts
from afina.server.served_versions import ServedVersions
from afina.server.shadows import FAILED, RIDING, ShadowedRequest, Shadows
from afina.serving.engine import Engine, Request
from afina.serving.mixed_batches import Prediction
from afina.serving.residents import Lease, Resident
from afina.store.adapter_store import AdapterStore
from afina.store.aliases import ANY
from afina.store.keys import Key
from afina.store.versions import PRODUCTION, AliasMove, Reference, Version

TOLERANCES = {"float32": probes.TOLERANCE, "bfloat16": 0.4}
"""By what is computed in, the largest difference of a golden probe, as a share of its largest output. Of 31 adapters of
the embedded model, the farthest is at 0.24 in bfloat16, and at 0.00003 in float32 (docs/LOG.md).
"""

OURS = ""
"""Whose the probes are, among clients."""

LOADING = 20.0
"""Seconds that an adapter may take to be loaded."""


class Core:
    """May be asked by many threads, from `start` to `close`."""

    def __init__(
        self, engine: Engine, store: AdapterStore, settings: Settings | None = None, traces: Traces | None = None
    ) -> None:
        self.engine, self.store, self.settings = engine, store, settings or Settings()
        self.traces = traces
        self.metrics = Metrics()
        chosen = self.settings
        line = FairQueue(chosen.batch_tokens, chosen.shared_tokens, chosen.delay, chosen.queue_tokens)
        self.current = ServedVersions(store, self._prove, self.metrics)
        self.shadows = Shadows(store, lambda version: engine.lease(version), self.current.demand, self.metrics)
        compute = partial(self.shadows.compute, engine.attempt)
        self.batching = Batcher(line, compute, watch=self._computed, failed=self.failed)
        self.tenants = Tenants(store, chosen.tokens_per_minute, chosen.writes_per_minute)
        self.metrics.watch(self._looked)
        self.metrics.watch_versions(lambda: self.current.damaged)
        self._counter = TokenCounter(engine.backbone.tokenizer)
        self._over = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="afina-watcher", daemon=True)
        self._follows, self._news, self._draining = True, False, False

    def start(self) -> None:
        """Begin to compute, and to follow the store."""
        self.batching.start()
        self._watcher.start()

    def close(self) -> None:
        """Take nothing more, finish what was taken, and end."""
        self._over.set()
        self.batching.close()
        self._watcher.join()
        self.current.close()
        self.shadows.close()
        self.engine.close()
        if self.traces is not None:
            self.traces.close()

    def drain(self) -> None:
        """Answer as before, and say that it is not ready, so that nobody is sent here any more."""
        self._draining = True

    def give_up(self) -> None:
        """Refuse what waits, and what comes; what is being computed is answered."""
        self.batching.give_up()

    @property
    def ready(self) -> bool:
        """Whether it answers, goes on to, and knows what the store says."""
        return self.follows and not self._draining

    @property
    def follows(self) -> bool:
        """Whether it answers, and knows what the store says."""
        return self.batching.alive and self._watcher.is_alive() and self._follows

    def _watch(self) -> None:
        while not self._over.wait(self.settings.every):
            try:
                self._news |= self.current.refresh()
                if self._news:
                    self.tenants.refresh()
                self.shadows.refresh(self._news)
                if not self._follows:
                    logs_and_traces.note("the store answers again")
                self._follows, self._news = True, False
            except AfinaError as error:  # the store does not answer: what is known is served, and `ready` says so
                if self._follows:
                    logs_and_traces.note("the store does not answer", logging.WARNING, reason=str(error))
                self._follows = False
            except Exception as error:  # noqa: BLE001 - who follows the store goes on whatever it meets there
                self._follows = False
                self.failed("store", error)

    def failed(self, what: str, error: BaseException) -> None:
        """Count what nobody foresaw. The message may hold a text, so that only type and place are noted."""
        self.metrics.failures.labels(what).inc()
        unforeseen, at = logs_and_traces.error_place(error)
        logs_and_traces.note("failed", logging.ERROR, what=what, unforeseen=unforeseen, at=at)

    def _computed(self, batch: ComputedBatch) -> None:
        self.metrics.computed(batch)
        if self.traces is not None:
            self.traces.computed(batch)

    def _looked(self) -> dict[str, float]:
        tokens, texts = self.batching.waiting
        residents = self.engine.residents
        counts = self.engine.counts
        return {
            "afina_ready": float(self.ready),
            "afina_queue_tokens": tokens,
            "afina_queue_texts": texts,
            "afina_adapters": len(residents),
            "afina_adapter_bytes": sum(one.size for one in residents),
            "afina_adapter_loads": counts.loads,
            "afina_adapter_evictions": counts.evictions,
            "afina_references_behind": self.current.behind,
            "afina_shadows_riding": self.shadows.count(RIDING),
            "afina_shadows_failed": self.shadows.count(FAILED),
        }

    def _prove(self, version: Version) -> None:
        """Load a version and replay its golden probe. Raises what loading does, CorruptAdapter where it differs."""
        with self.engine.lease(version) as lease:
            try:
                lease.resident(LOADING)
                manifest = lease.resident().manifest
                if manifest.probe is None:
                    self.metrics.probes.labels("none").inc()
                    return
                asked = probes.asked(manifest)
                works = [Request(lease, text, pair) for text, pair in asked]
                longest = self._longest(manifest)
                counts = [self._counter.count(Text(*one), longest) for one in asked]
                futures = self.batching.submit(OURS, works, counts, LOADING, asks=False)
                outcomes = [future.result() for future in futures]
                self._compare(outcomes, manifest, str(version))
            except Exception as error:
                at_the_moment = isinstance(error, Busy | NotFound) or not isinstance(error, AfinaError)
                self.metrics.probes.labels("not replayed" if at_the_moment else "failed").inc()
                if isinstance(error, AfinaError):
                    raise
                raise Busy(
                    f"{version}: its probe was not computed. Try again later.",
                    code="server.probe-not-computed",
                    version=str(version),
                ) from None
        self.metrics.probes.labels("passed").inc()

    def _compare(self, outcomes: Sequence[Prediction | AfinaError], manifest: Manifest, where: str) -> None:
        for outcome in outcomes:
            if isinstance(outcome, AfinaError):
                raise outcome
        outputs = np.stack([one.outputs for one in outcomes if isinstance(one, Prediction)])
        found = probes.compared(outputs, probes.recorded(manifest, where), where)
        if not found <= TOLERANCES[self.dtype]:
            raise CorruptAdapter(
                f"{where}: its golden probe differs by {found:.1e}, at most {TOLERANCES[self.dtype]} may.",
                code="adapter.probe-differs",
                where=where,
                difference=found,
            )

    @property
    def dtype(self) -> str:
        """What is computed in."""
        return str(self.engine.host.dtype).removeprefix("torch.")

    def _longest(self, manifest: Manifest) -> int:
        """Tokens that an adapter reads of a text at most."""
        return manifest.max_length or self.engine.backbone.longest

    def version(self, key: Key, model: str) -> Version:
        """What a model's name means for that key. Raises Missing."""
        return self.current.find(reference_of(model, key))

    def shadow(self, key: Key, model: str) -> dict[str, Any]:
        """What rides along with what a name's `production` is, and what came of it, as JSON values. Raises Missing."""
        reference = reference_of(f"{model}@{PRODUCTION}", key)
        return self.shadows.told(reference.name, self.current.find(reference))

    def move(
        self, key: Key, model: str, alias: str, version: int, expected: int | None, message: str | None
    ) -> AliasMove:
        """Let an alias of the key's client point to a version, in the key's name.

        Raises Missing, Overloaded for more changes than a client may make, and what `AdapterStore.alias` does.
        """
        reference = reference_of(f"{model}@{version}", key)
        if self.store.known(reference) is None:
            raise Missing()
        self.tenants.write(key)
        store = self.store.on_behalf_of(f"key {key.id}")
        return store.alias(str(reference), alias, expected=expected or ANY, message=message)

    def ask(self, key: Key, model: str, texts: Sequence[Text]) -> AcceptedRequest:
        """Find and load what is to answer; `release` what comes back, or use it within `held`.

        Raises Missing, InvalidData for texts that nobody could read or that are more than the key may ask for in a
        minute, Overloaded for more tokens than it has left, and what loading does.
        """
        check_texts(texts, self.settings)
        most = self.tenants.most(key)
        reference = reference_of(model, key)
        version = self.current.find(reference)
        self.current.demand(version)  # it may be damaged by now
        lease = self.engine.lease(version)
        try:
            resident = self._loaded(lease, version)
            manifest, objective = resident.manifest, resident.objective
            assert lease.version is not None
            check_pairs(texts, manifest)
            tokens = self._counter.counts(key.client, texts, self._longest(manifest), most)
            self.tenants.spend(key, sum(tokens))
        except BaseException:
            lease.release()
            raise
        receipt = Receipt(lease.version, lease.digest, self.engine.backbone.digest, self.dtype, manifest.precision)
        bare = reference == Reference(reference.name) and PRODUCTION in version.aliases
        rides = bare or reference.alias == PRODUCTION
        shadow = self.shadows.lease_for(reference.name, version, len(texts)) if rides else None
        return AcceptedRequest(key, texts, tokens, lease, manifest, objective, receipt, shadow)

    def _loaded(self, lease: Lease, version: Version) -> Resident:
        """What a lease is on. Raises what loading does; what is damaged is not loaded again before a pause."""
        try:
            return lease.resident(LOADING)
        except (Busy, NotFound):
            raise
        except AfinaError as error:
            self.current.distrust(version, error)
            raise

    @contextmanager
    def asked(self, key: Key, model: str, texts: Sequence[Text]) -> Iterator[AcceptedRequest]:
        """`ask`, released after the block."""
        made = self.ask(key, model, texts)
        try:
            yield made
        finally:
            made.release()

    def submit(self, asked: AcceptedRequest) -> Sequence[Future[Any]]:
        """Let them wait: of each text, a future of its outcome. Raises Overloaded, Busy.

        What rides along counts as much again; where there is no room for that, it does not ride.
        """
        futures = self._submit(asked)
        self.metrics.usage.accepted(asked.key.client, len(asked.texts), sum(asked.tokens))
        return futures

    def _submit(self, asked: AcceptedRequest) -> Sequence[Future[Any]]:
        client, timeout = asked.key.client, self.settings.timeout
        works = [Request(asked.lease, text.text, text.pair) for text in asked.texts]
        request_id = TRACED_REQUEST.get() if self.traces is not None else None
        shadow = asked.shadow
        if shadow is not None:
            try:
                both = [ShadowedRequest(work, shadow) for work in works]
                return self.batching.submit(
                    client, both, [2 * count for count in asked.tokens], timeout, request_id=request_id
                )
            except Overloaded:
                self.shadows.left_out(shadow, len(works))
                shadow.release()
                asked.shadow = None
        return self.batching.submit(client, works, asked.tokens, timeout, request_id=request_id)
