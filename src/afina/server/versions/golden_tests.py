"""Golden tests: before a version answers, its outputs for built-in sentences are compared with recorded ones."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from afina.engine.engine import Engine
from afina.engine.mixed_batches import SinglePass
from afina.engine.residents import Lease
from afina.errors import AfinaError, Busy, CannotWrite, CorruptAdapter, CorruptStore, NotFound, WrongBackbone
from afina.predicting import golden_test
from afina.server import logs_and_traces, problems
from afina.server.line.computing import Batcher
from afina.server.line.work import OURS, GoldenTest, PredictedAnswer, Work
from afina.server.metrics import Metrics
from afina.server.tenants import OtherBackbone
from afina.store.versions import Version

TOLERANCES = {"float32": golden_test.TOLERANCE, "bfloat16": 0.4, "int8": 0.4}
"""The largest allowed difference between outputs and recorded outputs, by dtype, relative to the largest output.

The largest measured difference of 31 adapters of the packaged model `embedded` is 0.24 in bfloat16 and 0.00003 in
float32. The largest of 27 adapters of the packaged models `embedded` and `minilm` is 0.19 in int8 and 0.04 in bfloat16.
"""

LOADING = 20.0  # the timeout for loading an adapter, in seconds


class GoldenTests:
    """Loads versions and runs their golden tests. Thread-safe."""

    def __init__(self, engine: Engine, batching: Batcher, metrics: Metrics) -> None:
        self._engine, self._batching, self._metrics = engine, batching, metrics
        self.dtype = engine.computes

    def demand_backbone(self, version: Version) -> None:
        """Raise OtherBackbone if the manifest of a version names another backbone than the server's."""
        if self._engine.is_for_another(version.manifest):
            raise self._elsewhere(version)

    def _elsewhere(self, version: Version) -> OtherBackbone:
        return OtherBackbone(version, self._engine.backbone.shown)

    def run(self, version: Version) -> None:
        """Load a version and run its golden test. Raises AfinaError, such as OtherBackbone or CorruptAdapter."""
        with self._engine.lease(version) as lease:
            loaded = False
            try:
                manifest = lease.resident(LOADING).manifest
                loaded = True
                if manifest.probe is None:
                    self._metrics.probes.labels("none").inc()
                    return
                outcomes = [future.result() for future in self._submitted(lease)]
                difference = self._difference(outcomes, lease, str(version))
                if not difference <= (most := TOLERANCES[self.dtype]):
                    raise problems.PROBE_DIFFERS(where=str(version), difference=difference, most=most)
            except WrongBackbone:
                raise self._elsewhere(version) from None
            except Exception as error:
                self._metrics.probes.labels(_outcome(error, loaded=loaded)).inc()
                if isinstance(error, AfinaError):
                    raise
                raise problems.PROBE_NOT_COMPUTED(version=str(version)) from None
        self._metrics.probes.labels("passed").inc()

    def _submitted(self, lease: Lease) -> Sequence[Future[Any]]:
        resident = lease.resident()
        sentences = golden_test.asked(resident.manifest)
        texts, pairs = [text for text, _ in sentences], [pair for _, pair in sentences]
        encoded = self._engine.encode(resident, texts, pairs)
        for one in encoded:
            if isinstance(one, AfinaError):
                raise one
        rows = [SinglePass(lease, one) for one in encoded if not isinstance(one, AfinaError)]
        counts = [max(1, len(row.encoded.tokens)) for row in rows]
        works: Sequence[Work] = [
            PredictedAnswer(client=OURS, tokens=count, timeout=LOADING, row=row)
            for row, count in zip(rows, counts, strict=True)
        ]
        if resident.generates:
            works = [GoldenTest(client=OURS, tokens=sum(counts), timeout=LOADING, lease=lease)]
        return self._batching.submit(works, asks=False)

    def _difference(self, outcomes: Sequence[Any], lease: Lease, where: str) -> float:
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                if not isinstance(outcome, AfinaError):
                    logs_and_traces.note_failure(self._metrics, "golden test", outcome)
                raise outcome
        resident = lease.resident()
        outputs = outcomes[0] if resident.generates else golden_test.rows(one.outputs for one in outcomes)
        return golden_test.compared(outputs, golden_test.recorded(resident.manifest, where), where)


def _outcome(error: Exception, *, loaded: bool) -> str:
    """Return the outcome, for the metrics, of a golden test that ended with an error."""
    if isinstance(error, Busy | NotFound | CannotWrite) or not isinstance(error, AfinaError):
        return "not replayed"
    if loaded:
        return "failed"
    return "damaged" if isinstance(error, CorruptAdapter | CorruptStore) else "not replayed"
