"""Engine: one backbone in memory, and requests for many adapters of it in the same packed rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import torch

from afina import device as devices
from afina.errors import AfinaError, Busy, NotFound
from afina.models.adapter import Adapter
from afina.models.backbone import Backbone
from afina.models.backbone_spec import FLOAT, precision_of
from afina.models.classifier import Classifier
from afina.models.mixed_batch import MixedBatchModel
from afina.repr_html import ReprCard
from afina.serving.adapters import AdapterLoader, AdapterSources, Address
from afina.serving.mixed_batches import AdapterRequest, MixedBatches, Outcome, Prediction
from afina.serving.residents import Lease, Resident, ResidentCounts, Residents
from afina.store.adapter_store import AdapterStore
from afina.store.reader import StoreReader


class Request(NamedTuple):
    """A text, or a pair of texts, for an adapter: at an address, or on which a lease is held already."""

    adapter: Address | Lease
    text: str
    pair: str | None = None


class Engine(ReprCard):
    """Answers for many adapters of one backbone at once; no answer depends on what else is asked.

    May be called by many threads: reading an adapter and a text is done beside the one computation that goes on.
    """

    def __init__(
        self,
        backbone: Backbone | str,
        store: StoreReader | str | Path | None = None,
        *,
        dtype: str = "float32",
        precision: str = FLOAT,
        limit: int | None = None,
        loaders: int = 2,
        fresh: float = 0.5,
    ) -> None:
        """Opens the backbone; nothing else has to be there yet.

        store    where `store:client/task` is looked up
        dtype    as in `Predictor.of`
        precision  what the backbone's frozen weights are held in, a key of PRECISIONS; an adapter that was trained in
                 another one gets a model of its own
        limit    bytes that adapters may take beside the backbone, see `Residents`; None: as many as are asked for
        loaders  threads that read adapters
        fresh    seconds for which what a reference means is not looked up again: so late is a moved alias noticed
        Raises UnknownName for another dtype or precision, and what `Backbone.load` raises.
        """
        computed = devices.precision(dtype, devices.choose())
        precision_of(precision, "engine")
        self.backbone = Backbone.load(backbone) if isinstance(backbone, str) else backbone
        classifier = Classifier.open(self.backbone, ("0", "1"), seed=0)
        self.backbone.digest_of(classifier.body)  # hashed while all digits are there
        classifier.hold(precision)
        classifier.to(devices.choose())
        self.host = MixedBatchModel(classifier)
        if computed != torch.float32:
            classifier.lower(computed)
        self._loader = AdapterLoader(self.host, self.backbone, dtype)
        self._sources = AdapterSources(AdapterStore(store) if isinstance(store, str | Path) else store, fresh)
        self._residents = Residents(limit, loaders)
        self._batches = MixedBatches(self.host)

    def facts(self) -> dict[str, object]:
        """The facts that its repr shows."""
        residents = self.residents
        apart = [one for one in residents if not one.rides]
        return {
            "backbone": self.backbone.address,
            "computes in": str(self.host.dtype).removeprefix("torch."),
            "adapters": len(residents),
            "bytes of them": sum(one.size for one in residents),
            "with a model of their own": len(apart),
            "bytes of those": sum(one.size for one in apart),
        }

    @property
    def residents(self) -> tuple[Resident, ...]:
        """The adapters in memory, the one used last first; of each, whether it shares the model and what it takes."""
        return self._residents.all()

    @property
    def counts(self) -> ResidentCounts:
        """How many adapters were loaded and given up."""
        return self._residents.counts

    def lease(self, address: Address, *, anew: bool = False) -> Lease:
        """A lease on what an address means now, until it is released; loading begins, and is not waited for.

        anew  look it up, however fresh it is
        Raises what looking it up does: NotFound, InvalidName, InvalidStudy, CorruptAdapter.
        """
        found = self._sources.find(address, anew=anew)
        return self._residents.lease(found.digest, lambda: self._loader.load(found.read()), found.version)

    def load(self, *addresses: Address) -> tuple[Resident, ...]:
        """Adapters that are wanted soon, loaded now. Raises what loading one does."""
        with ExitStack() as stack:
            leases = [stack.enter_context(self.lease(address)) for address in addresses]
            return tuple(lease.resident() for lease in leases)

    def pin(self, address: Address) -> Resident:
        """Keep an adapter in memory whatever the limit says. Raises Refused where pinned ones would be beyond that."""
        with self.lease(address) as lease:
            self._residents.pin(lease)
            return lease.resident()

    def unpin(self, adapter: Address | Resident) -> None:
        """Let the limit decide again."""
        self._residents.unpin(self._digest(adapter))

    def evict(self, adapter: Address | Resident) -> bool:
        """Forget an adapter, whoever pinned it; what is being answered is answered. Whether it was there."""
        return self._residents.evict(self._digest(adapter))

    def _digest(self, adapter: Address | Resident) -> str:
        return adapter.digest if isinstance(adapter, Resident) else self._sources.find(adapter).digest

    def predict(self, requests: Iterable[Request | tuple[Any, ...]]) -> list[Prediction]:
        """What adapters say of texts, in the order of the requests: `(adapter, text)` or `(adapter, text, pair)`.

        Raises the error of the first request that has one: what `lease` raises, InvalidData for a text that cannot be
        read, WrongBackbone and CorruptAdapter as `Predictor.of` and `Predictor.predict` do.
        """
        found = []
        for outcome in self.attempt(requests):
            if isinstance(outcome, AfinaError):
                raise outcome
            found.append(outcome)
        return found

    def tasks(self, text: str, adapters: Sequence[Address | Lease], pair: str | None = None) -> list[Prediction]:
        """What each adapter says of one text; as `predict`."""
        return self.predict(Request(adapter, text, pair) for adapter in adapters)

    def attempt(self, requests: Iterable[Request | tuple[Any, ...]]) -> list[Outcome]:
        """As `predict`, where an error is the outcome of its own request alone."""
        given = [Request(*one) for one in requests]
        outcomes: list[Outcome | None] = [None] * len(given)
        asked: dict[int, AdapterRequest] = {}
        with ExitStack() as stack:
            leases = self._leases(given, stack)
            for index, one in enumerate(given):
                try:
                    lease, resident = self._loaded(leases[index], one.adapter, stack)
                    asked[index] = AdapterRequest(resident, lease.version, one.text, one.pair)
                except AfinaError as error:
                    outcomes[index] = error
            for index, outcome in zip(asked, self._batches.outcomes([*asked.values()]), strict=True):
                outcomes[index] = outcome
        return [outcome for outcome in outcomes if outcome is not None]

    def _leases(self, given: Sequence[Request], stack: ExitStack) -> list[Lease | AfinaError]:
        """Of each request, all taken before any is waited for; one for all that name an address the same way."""
        found: dict[object, Lease | AfinaError] = {}
        keys = [one.adapter if isinstance(one.adapter, str | Path) else id(one.adapter) for one in given]
        for key, one in zip(keys, given, strict=True):
            if isinstance(one.adapter, Lease):
                found[key] = one.adapter
            elif key not in found:
                try:
                    found[key] = stack.enter_context(self.lease(one.adapter))
                except AfinaError as error:
                    found[key] = error
        return [found[key] for key in keys]

    def _loaded(self, lease: Lease | AfinaError, adapter: Address | Lease, stack: ExitStack) -> tuple[Lease, Resident]:
        """A lease and its adapter, loaded. What was removed or exchanged while it was read is looked up once more."""
        if isinstance(lease, AfinaError):
            raise lease
        try:
            return lease, lease.resident()
        except (Busy, NotFound):
            if isinstance(adapter, Adapter | Lease):
                raise
        again = stack.enter_context(self.lease(adapter, anew=True))
        return again, again.resident()

    def close(self) -> None:
        """Load nothing more; who is being answered is answered."""
        self._residents.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
