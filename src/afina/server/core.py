"""The core of the server: from a client's texts to answers, in any protocol. Knows no protocol.

The calling threads read the store, load adapters and count tokens. One further thread computes.
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
from afina.server.receipts import Receipt
from afina.server.requests import AcceptedRequest, Text, TokenCounter, check_pairs, check_texts
from afina.server.served_versions import ServedVersions, check_version
from afina.server.shadows import FAILED, RIDING, ShadowedRequest, Shadows
from afina.serving.engine import Engine, Request
from afina.serving.mixed_batches import Prediction
from afina.serving.residents import Lease, Resident
from afina.store.adapter_store import AdapterStore
from afina.store.aliases import ANY
from afina.store.keys import Key
from afina.store.versions import PRODUCTION, AliasMove, Reference, Version

TOLERANCES = {"float32": probes.TOLERANCE, "bfloat16": 0.4}
"""Largest difference in a golden test, by dtype, as a share of the largest output.

Of 31 adapters of the embedded model, the largest difference is 0.24 in bfloat16 and 0.00003 in float32 (docs/LOG.md).
"""

OURS = ""
"""The queue's client name for golden tests."""

LOADING = 20.0
"""Timeout for loading an adapter, in seconds."""


class Core:
    """The state of a server: engine, store, queue, keys, metrics. Thread-safe between `start` and `close`."""

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
        """Start the computing thread and the thread that watches the store."""
        self.batching.start()
        self._watcher.start()

    def close(self) -> None:
        """Accept no more requests, finish the accepted ones, and stop."""
        self._over.set()
        self.batching.close()
        self._watcher.join()
        self.current.close()
        self.shadows.close()
        self.engine.close()
        if self.traces is not None:
            self.traces.close()

    def drain(self) -> None:
        """Report the server as not ready, so that load balancers send no more requests. Requests are still answered."""
        self._draining = True

    def give_up(self) -> None:
        """Refuse waiting and new requests. Texts that are being computed are answered."""
        self.batching.give_up()

    @property
    def ready(self) -> bool:
        """Whether the server answers, is not draining, and its store responds."""
        return self.follows and not self._draining

    @property
    def follows(self) -> bool:
        """Whether the server answers and its store responds."""
        return self.batching.alive and self._watcher.is_alive() and self._follows

    def _watch(self) -> None:
        looked = False
        while not self._over.wait(self.settings.every):
            try:
                if not looked:
                    self.current.look_through()
                    looked = True
                self._news |= self.current.refresh()
                if self._news:
                    self.tenants.refresh()
                self.shadows.refresh(self._news)
                if not self._follows:
                    logs_and_traces.note("the store answers again")
                self._follows, self._news = True, False
            except AfinaError as error:  # the store does not respond: known versions are served, `ready` is false
                if self._follows:
                    logs_and_traces.note("the store does not answer", logging.WARNING, reason=str(error))
                self._follows = False
            except Exception as error:  # noqa: BLE001 - the watching thread must survive any error
                self._follows = False
                self.failed("store", error)

    def failed(self, what: str, error: BaseException) -> None:
        """Count and log an unexpected error.

        The message may contain a client's text, so only type and place are logged.
        """
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
        """Load a version and run its golden test.

        Raises the errors of loading, CorruptAdapter if the test fails, and InvalidStudy, before anything is loaded, for
        a kind of answers that is not served.
        """
        check_version(version)
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
                    f"{version}: its golden test could not be computed. Try again later.",
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
                f"{where}: its golden test fails: outputs differ by {found:.1e}, more than {TOLERANCES[self.dtype]}.",
                code="adapter.probe-differs",
                where=where,
                difference=found,
            )

    @property
    def dtype(self) -> str:
        """The dtype of the computation, such as "float32"."""
        return str(self.engine.host.dtype).removeprefix("torch.")

    def _longest(self, manifest: Manifest) -> int:
        """Return the number of tokens to which the adapter cuts a text."""
        return manifest.max_length or self.engine.backbone.longest

    def version(self, key: Key, model: str) -> Version:
        """Return the version of a model name for this key. Raises Missing."""
        return self.current.find(reference_of(model, key))

    def shadow(self, key: Key, model: str) -> dict[str, Any]:
        """Return state and counts of a model's shadow version as JSON values. Raises Missing."""
        reference = reference_of(f"{model}@{PRODUCTION}", key)
        return self.shadows.status_json(reference.name, self.current.find(reference))

    def move(
        self, key: Key, model: str, alias: str, version: int, expected: int | None, message: str | None
    ) -> AliasMove:
        """Point an alias of the key's client to a version. The audit log names the key.

        Raises:
            Missing: the key's client has no such version.
            Overloaded: the client has moved too many aliases in the last minute.
            AfinaError: errors of `AdapterStore.alias`.
        """
        reference = reference_of(f"{model}@{version}", key)
        if self.store.known(reference) is None:
            raise Missing()
        self.tenants.write(key)
        store = self.store.on_behalf_of(f"key {key.id}")
        return store.alias(str(reference), alias, expected=expected or ANY, message=message)

    def ask(self, key: Key, model: str, texts: Sequence[Text]) -> AcceptedRequest:
        """Find and load the adapter that is to answer. `release` the result, or use `asked` as a context manager.

        Raises:
            Missing: the key's client has no such model.
            InvalidData: a text is empty or too long, or the texts have more tokens than the key may ever send in a
                minute.
            Overloaded: the key has too few tokens left.
            AfinaError: errors of loading.
        """
        check_texts(texts, self.settings)
        most = self.tenants.most(key)
        reference = reference_of(model, key)
        version = self.current.find(reference)
        self.current.demand(version)  # the version may have been damaged since the lookup
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
        is_production = bare or reference.alias == PRODUCTION
        shadow = self.shadows.lease_for(reference.name, version, len(texts)) if is_production else None
        return AcceptedRequest(key, texts, tokens, lease, manifest, objective, receipt, shadow)

    def _loaded(self, lease: Lease, version: Version) -> Resident:
        """Return the adapter of a lease.

        Raises the errors of loading. A damaged version is not loaded again before a pause.
        """
        try:
            return lease.resident(LOADING)
        except (Busy, NotFound):
            raise
        except AfinaError as error:
            self.current.distrust(version, error)
            raise

    @contextmanager
    def asked(self, key: Key, model: str, texts: Sequence[Text]) -> Iterator[AcceptedRequest]:
        """Call `ask`, and release the result after the block."""
        made = self.ask(key, model, texts)
        try:
            yield made
        finally:
            made.release()

    def submit(self, asked: AcceptedRequest) -> Sequence[Future[Any]]:
        """Put the texts into the queue and return a future for each outcome. Raises Overloaded, Busy.

        A text with a shadow counts twice. If there is no room for the shadow, only the text is queued.
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
