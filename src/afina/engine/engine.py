"""Engine: one backbone in memory that answers requests for many adapters in mixed batches.

The backbone is in memory once for each precision in which adapters were trained on it (`engine.hosts`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np

from afina import device as devices
from afina.data.concurrent_tokenizer import ConcurrentTokenizer
from afina.data.tokenize import Template, Tokenizer
from afina.engine.adapters import AdapterLoader, AdapterSources, Address
from afina.engine.encoding import EncodedText, encode
from afina.engine.generations import Generation, Generations, decoding_of, generated
from afina.engine.hosts import Hosts, precisions_of
from afina.engine.mixed_batches import ChunkedPass, MixedBatches, Outcome, Prediction, SinglePass
from afina.engine.probing import probe_outputs
from afina.engine.residents import Lease, ReservedMemory, Resident, ResidentCounts, Residents
from afina.errors import AfinaError, Busy, NotFound
from afina.models.adapter import Adapter
from afina.models.backbone import Backbone
from afina.predicting.reading import Truncation, states_another
from afina.repr_html import ReprCard
from afina.store.adapter_store import AdapterStore
from afina.store.reader import StoreReader


class Request(NamedTuple):
    """A text or a pair of texts, with the address of the adapter or a lease on it."""

    adapter: Address | Lease
    text: str
    pair: str | None = None


class Engine(ReprCard):
    """Answers for many adapters of one backbone at once; an answer does not depend on other requests.

    Thread-safe: adapters are read and texts are tokenised while one forward pass runs.
    """

    def __init__(
        self,
        backbone: Backbone | str,
        store: StoreReader | str | Path | None = None,
        *,
        dtype: str = "float32",
        limit: int | None = None,
        loaders: int = 2,
        fresh: float = 0.5,
    ) -> None:
        """Open the backbone's configuration and tokenizer. The first adapter opens the weights, in its precision.

        Adapters that were trained on the backbone in one precision share one frozen model in this precision.

        Args:
            backbone: The backbone, or its address.
            store: Store for references such as `store:client/task`.
            dtype: Compute type, "float32", "bfloat16", "int8" or "auto", as in `Predictor.of`.
            limit: Maximum memory of adapters in bytes, in addition to the backbone. Further precisions of the backbone
                count as well. None: no limit.
            loaders: Number of threads that load adapters.
            fresh: Time in seconds for which a resolved reference is reused, so a moved alias is seen this much later.

        Raises:
            UnknownName: The dtype does not exist.
            NotFound: The backbone does not exist.
            InvalidStudy: The backbone is not supported, or the device does not support the dtype.
        """
        devices.compute_type(dtype, devices.choose())  # an unsuitable dtype is an error before any file is read
        self.backbone = Backbone.load(backbone) if isinstance(backbone, str) else backbone
        self._residents = Residents(limit, loaders)
        self.hosts = Hosts(self.backbone, dtype, self._residents)
        self._loader = AdapterLoader(self.hosts, dtype, self._residents.hold)
        self._sources = AdapterSources(AdapterStore(store) if isinstance(store, str | Path) else store, fresh)
        self._memory = ReservedMemory(self._residents)
        self._batches = MixedBatches(self.hosts.computing, self._memory)
        self._tokenizer = cast(Tokenizer, ConcurrentTokenizer(self.backbone.tokenizer))

    def facts(self) -> dict[str, object]:
        residents, hosts = self.residents, self.hosts.all().values()
        left = dict.fromkeys(words for host in hosts if (words := host.classifier.not_in_int8))
        apart = [one for one in residents if not one.shares_model]
        return {
            "backbone": self.backbone.address,
            "bytes of the backbone": tuple(f"{size:,} in {name}" for name, size in self.hosts.sizes.items()),
            "computes in": self.computes,
            "not in int8": "; ".join(left),
            "adapters": len(residents),
            "bytes of adapters": sum(one.size for one in residents),
            "with a separate model": len(apart),
            "bytes with a separate model": sum(one.size for one in apart),
        }

    def open_for_store(self) -> Sequence[AfinaError]:
        """Open the backbone in each precision of the store's adapters now, so that no request waits for it.

        Only versions with an alias and newest versions count. Raises the errors of opening the backbone in the first
        precision; returns the errors of further precisions.
        """
        manifests = [] if self._sources.store is None else [*self._sources.store.served_manifests().values()]
        errors = []
        for precision in precisions_of(manifests, self.backbone):
            try:
                self.hosts.of(precision)
            except AfinaError as error:
                if not self.hosts.all():
                    raise
                errors.append(error)
        return errors

    def is_for_another(self, manifest: Mapping[str, Any]) -> bool:
        """Return whether an adapter's manifest names another backbone than the engine's."""
        return states_another(manifest, self.backbone)

    @property
    def computes(self) -> str:
        """Name of the compute type: "float32", "bfloat16" or "int8"."""
        return self.hosts.computes.name

    @property
    def residents(self) -> tuple[Resident, ...]:
        """The adapters in memory, the most recently used first."""
        return self._residents.all()

    @property
    def counts(self) -> ResidentCounts:
        return self._residents.counts

    def lease(self, address: Address, *, anew: bool = False) -> Lease:
        """Return a lease on the adapter that an address means now. Starts loading, but does not wait.

        Args:
            address: The adapter's address.
            anew: Whether to look a reference up even if it was resolved recently.

        Raises:
            NotFound: There is no such adapter.
            InvalidName: The reference is malformed.
            InvalidStudy: The address is a reference and there is no store.
            CorruptAdapter: The adapter's files are damaged.
        """
        found = self._sources.find(address, anew=anew)
        return self._residents.lease(found.digest, lambda: self._loader.load(found.read()), found.version)

    def load(self, *addresses: Address) -> tuple[Resident, ...]:
        """Load adapters now, before a request needs them. Raises the errors of loading."""
        with ExitStack() as stack:
            leases = [stack.enter_context(self.lease(address)) for address in addresses]
            return tuple(lease.resident() for lease in leases)

    def pin(self, address: Address) -> Resident:
        """Keep an adapter in memory regardless of the limit. Raises Refused if pinned adapters would exceed it."""
        with self.lease(address) as lease:
            self._residents.pin(lease)
            return lease.resident()

    def unpin(self, adapter: Address | Resident) -> None:
        """End `pin`: the adapter may be evicted again."""
        self._residents.unpin(self._digest(adapter))

    def evict(self, adapter: Address | Resident) -> bool:
        """Evict an adapter, even if pinned; running requests finish. Return whether it was in memory."""
        return self._residents.evict(self._digest(adapter))

    def _digest(self, adapter: Address | Resident) -> str:
        return adapter.digest if isinstance(adapter, Resident) else self._sources.find(adapter).digest

    def predict(self, requests: Iterable[Request | tuple[Any, ...]]) -> list[Prediction]:
        """Answer requests `(adapter, text)` or `(adapter, text, pair)`, in their order.

        Raises:
            AfinaError: The error of the first request that fails: an error of `lease`, InvalidData for an unreadable
                text, or WrongBackbone and CorruptAdapter as in `Predictor`.
        """
        found = []
        for outcome in self.attempt(requests):
            if isinstance(outcome, AfinaError):
                raise outcome
            found.append(outcome)
        return found

    def tasks(self, text: str, adapters: Sequence[Address | Lease], pair: str | None = None) -> list[Prediction]:
        """Return each adapter's answer to one text. Raises the errors of `predict`."""
        return self.predict(Request(adapter, text, pair) for adapter in adapters)

    def attempt(self, requests: Iterable[Request | tuple[Any, ...]]) -> list[Outcome]:
        """Answer requests as `predict` does; the result of a request that fails is its error."""
        given = [Request(*one) for one in requests]
        groups: dict[object, list[int]] = {}
        for index, one in enumerate(given):
            address = one.adapter if isinstance(one.adapter, str | Path) else id(one.adapter)
            groups.setdefault(address, []).append(index)
        outcomes, rows = dict[int, Outcome](), dict[int, SinglePass]()
        with ExitStack() as stack:
            # All adapters start to load before one is waited for.
            leases = [self._started(given[mine[0]].adapter, stack) for mine in groups.values()]
            for mine, started in zip(groups.values(), leases, strict=True):
                try:
                    lease = self._loaded(started, given[mine[0]].adapter, stack)
                except AfinaError as error:
                    outcomes |= dict.fromkeys(mine, error)
                    continue
                texts, pairs = [given[index].text for index in mine], [given[index].pair for index in mine]
                for index, encoded in zip(mine, self.encode(lease.resident(), texts, pairs), strict=True):
                    if isinstance(encoded, AfinaError):
                        outcomes[index] = encoded
                    else:
                        rows[index] = SinglePass(lease, encoded)
            outcomes |= self._answered(rows)
        return [outcomes[index] for index in range(len(given))]

    def encode(
        self,
        resident: Resident,
        texts: Sequence[str],
        pairs: Sequence[str | None] | None = None,
        *,
        template: Template | None = None,
        truncation: Truncation | None = None,
    ) -> list[EncodedText | AfinaError]:
        """Return each text as the adapter reads it, or its error: InvalidData for an unreadable text.

        Thread-safe, without a lock. The middle of a long text is not tokenised if the tokenizer splits texts into words
        by a known rule, as byte-level BPE does. Otherwise the whole text is tokenised.

        Args:
            pairs: The second text of each pair, None for a single text. None: all texts are single.
            template: Replaces the adapter's template: `Template("{text}")` encodes a text as it is, and
                `Template("{text}", special_tokens=False)` encodes a text that has its special tokens, such as a
                rendered chat. None: the adapter's template.
            truncation: How long texts are truncated. None: as in training. An adapter that reads no tokens refuses a
                maximum length.
        """
        return encode(self._tokenizer, resident, texts, pairs, template, truncation)

    def _answered(self, rows: Mapping[int, SinglePass]) -> dict[int, Outcome]:
        """Answer texts of all kinds of adapters; answers that are texts are generated with the trained settings."""
        passes = {index: row for index, row in rows.items() if not row.lease.resident().generates}
        found = dict(zip(passes, self.compute([*passes.values()]), strict=True))
        generations = {
            Generation(row.lease, row.encoded, decoding_of(row.lease.resident())): index
            for index, row in rows.items()
            if index not in passes
        }
        for generation, outcome in generated(self._new_generations(ReservedMemory(self._residents)), generations):
            found[generations[generation]] = outcome
        return found

    @cached_property
    def generations(self) -> Generations:
        """The running generations, computed step by step by one thread. `predict` does not use them."""
        return self._new_generations(self._memory)

    def _new_generations(self, memory: ReservedMemory) -> Generations:
        return Generations(self.hosts.computing, self._residents, self.backbone.tokenizer, memory)

    def probe(self, lease: Lease) -> np.ndarray:
        """Return an adapter's outputs for the built-in sentences (golden test), as a manifest records them.

        Returns:
            [sentence, label], or the log-probabilities of given tokens, [sentence, token], if the adapter answers with
            texts.
        """
        return probe_outputs(self.hosts.computing, self._batches, self._tokenizer, lease)

    def compute(self, rows: Sequence[SinglePass]) -> list[Outcome]:
        """Return the prediction or error of each text, in order; texts of all adapters share forward passes."""
        return self._batches.outcomes(rows)

    def open(self, row: SinglePass) -> ChunkedPass | None:
        """Return a text that is computed in chunks; `close` it. None: there is no memory for its keys and values now.

        The adapter's model must be able to compute chunks (`Resident.takes_chunks`).
        """
        return self._batches.open(row)

    def compute_chunks(self, chunks: Sequence[tuple[ChunkedPass, int]]) -> list[Outcome | None]:
        """Compute the next tokens of texts. Return each text's prediction or error; None: it is not complete.

        Args:
            chunks: Texts returned by `open`, each with the most tokens to compute now.
        """
        return self._batches.chunk_outcomes(chunks)

    def _started(self, adapter: Address | Lease, stack: ExitStack) -> Lease | AfinaError:
        """Return a lease on an adapter, whose loading may not have ended, or the error."""
        if isinstance(adapter, Lease):
            return adapter
        try:
            return stack.enter_context(self.lease(adapter))
        except AfinaError as error:
            return error

    def _loaded(self, lease: Lease | AfinaError, adapter: Address | Lease, stack: ExitStack) -> Lease:
        """Return a lease on a loaded adapter; retries once if the adapter was removed or replaced while it loaded."""
        if isinstance(lease, AfinaError):
            raise lease
        try:
            lease.resident()
        except (Busy, NotFound):
            if isinstance(adapter, Adapter | Lease):
                raise
            lease = stack.enter_context(self.lease(adapter, anew=True))
            lease.resident()
        return lease

    def close(self) -> None:
        """Load no more adapters; running requests finish."""
        self._residents.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
