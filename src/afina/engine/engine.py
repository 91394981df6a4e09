"""The class Engine, which keeps a backbone in memory and answers requests for many adapters in mixed batches.

The backbone is in memory once for each precision in which the adapters were trained (see `engine.hosts`).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np

from afina import device as devices
from afina.data.concurrent_tokenizer import ConcurrentTokenizer
from afina.data.template import Template
from afina.data.tokenize import Tokenizer
from afina.engine.adapters import AdapterLoader, AdapterSources, Address
from afina.engine.encoding import EncodedText, encode
from afina.engine.generations import Generation, Generations, decoding_of, generated
from afina.engine.golden_test import golden_outputs
from afina.engine.hosts import Hosts, precisions_of
from afina.engine.mixed_batches import ChunkedPass, MixedBatches, Outcome, Prediction, SinglePass, WindowedPass
from afina.engine.residents import (
    Lease,
    ReservedMemory,
    Resident,
    ResidentCounts,
    Residents,
    SharedResident,
    stacked_bytes,
)
from afina.errors import AfinaError, Busy, NotFound
from afina.models.adapter import Adapter
from afina.models.backbone import Backbone
from afina.predicting.backbone_digest import states_another
from afina.predicting.reading import Truncation
from afina.repr_html import ReprCard
from afina.store.adapter_store import AdapterStore
from afina.store.reader import StoreReader


class Request(NamedTuple):
    """A text or a pair of texts, with the address of the adapter that answers, or a lease on the adapter."""

    adapter: Address | Lease
    text: str
    pair: str | None = None


class Engine(ReprCard):
    """An engine answers texts with many adapters of one backbone at once. No answer depends on other requests.

    Thread-safe: adapters are loaded and texts are tokenised while one forward pass runs.
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
        """Open the backbone's configuration and tokenizer. The backbone's weights are opened with the first adapter.

        Adapters that were trained in the same precision of the backbone share one frozen model in this precision.

        Args:
            backbone: The backbone, or its address.
            store: The store (or its address) of references such as `store:client/task`. None: references are errors.
            dtype: The compute type, "float32", "bfloat16", "int8" or "auto", as in `Predictor.of`.
            limit: The maximum memory in bytes of the adapters, and of the backbone in all precisions except the one
                that is opened first. None: no limit.
            loaders: The number of threads that load adapters.
            fresh: The time in seconds for which the version of a reference is cached. A moved alias takes effect after
                at most `fresh` seconds.

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
        """Open the backbone in each precision of the store's adapters, so that no request waits for the opening.

        Only adapters' newest versions and versions with an alias are considered. Raises the errors of opening the
        backbone in the first precision, and returns those of the other precisions.
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
        """Return whether the manifest of an adapter names another backbone than the engine's."""
        return states_another(manifest, self.backbone)

    @property
    def computes(self) -> str:
        """The name of the engine's compute type: "float32", "bfloat16" or "int8"."""
        return self.hosts.computes.name

    @property
    def residents(self) -> tuple[Resident, ...]:
        """The adapters in memory, the most recently used first."""
        return self._residents.all()

    @property
    def counts(self) -> ResidentCounts:
        return self._residents.counts

    def lease(self, address: Address, *, anew: bool = False) -> Lease:
        """Return a lease, which keeps an adapter in memory until the lease is released.

        `lease` starts to load the adapter if it is not in memory, and does not wait until the adapter is loaded.

        Args:
            address: The adapter's address.
            anew: Whether to look a reference up in the store even if its version is cached.

        Raises:
            NotFound: No adapter is at the address.
            InvalidName: The reference is malformed.
            InvalidStudy: The address is a reference to a store, but the engine has no store.
            CorruptAdapter: The adapter's files are damaged.
        """
        found = self._sources.find(address, anew=anew)
        return self._residents.lease(found.digest, lambda: self._loader.load(found.read()), found.version)

    def load(self, *addresses: Address) -> tuple[Resident, ...]:
        """Load adapters before a request needs them. Raises the errors of loading the adapters."""
        with ExitStack() as stack:
            leases = [stack.enter_context(self.lease(address)) for address in addresses]
            return tuple(lease.resident() for lease in leases)

    def pin(self, address: Address) -> Resident:
        """Load an adapter and keep it in memory, even if the adapters exceed the memory limit.

        Raises Refused if the pinned adapters alone would exceed the memory limit.
        """
        with self.lease(address) as lease:
            self._residents.pin(lease)
            return lease.resident()

    def unpin(self, adapter: Address | Resident) -> None:
        """Undo `pin`, so that the adapter may be evicted from memory again."""
        self._residents.unpin(self._digest(adapter))

    def evict(self, adapter: Address | Resident) -> bool:
        """Evict an adapter from memory, even if it is pinned. Return whether the adapter was in memory.

        Running requests for the adapter are still answered.
        """
        return self._residents.evict(self._digest(adapter))

    def _digest(self, adapter: Address | Resident) -> str:
        return adapter.digest if isinstance(adapter, Resident) else self._sources.find(adapter).digest

    def predict(self, requests: Iterable[Request | tuple[Any, ...]]) -> list[Prediction]:
        """Return the answers to requests in their order. A request is `(adapter, text)` or `(adapter, text, pair)`.

        Raises:
            AfinaError: The error of the first request that fails: an error of `lease`, InvalidData for an invalid text,
                or WrongBackbone or CorruptAdapter as in `Predictor`.
        """
        found = []
        for outcome in self.attempt(requests):
            if isinstance(outcome, AfinaError):
                raise outcome
            found.append(outcome)
        return found

    def tasks(self, text: str, adapters: Sequence[Address | Lease], pair: str | None = None) -> list[Prediction]:
        """Return the answers of several adapters to one text. Raises the errors of `predict`."""
        return self.predict(Request(adapter, text, pair) for adapter in adapters)

    def attempt(self, requests: Iterable[Request | tuple[Any, ...]]) -> list[Outcome]:
        """Return the answers to requests like `predict`, but return the error of a request that fails in its place."""
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
        each_token: bool = False,
    ) -> list[EncodedText | AfinaError]:
        """Tokenise texts for an adapter. Return an EncodedText for each text, or InvalidData for an invalid text.

        Thread-safe, without a lock. If the tokenizer splits texts into words by a known rule, as byte-level BPE does,
        the middle of a text that will be truncated is not tokenised. Otherwise the whole text is tokenised.

        Args:
            resident: The loaded adapter.
            texts: The single texts, or the first texts of pairs.
            pairs: The second text of each pair, None for a single text. None: all texts are single.
            template: A template that replaces the adapter's template. `Template("{text}")` encodes a text unchanged,
                and `Template("{text}", special_tokens=False)` encodes a text that has its special tokens already, such
                as a rendered chat. None: the adapter's template.
            truncation: How texts that are too long are truncated. None: as in training. An adapter that reads no tokens
                refuses a maximum length.
            each_token: Whether `compute` returns the outputs of all tokens of a text, and no answer. Only adapters that
                answer with entities support it, and only texts that need one window.
        """
        return encode(self._tokenizer, resident, texts, pairs, template, truncation, each_token=each_token)

    def _answered(self, rows: Mapping[int, SinglePass]) -> dict[int, Outcome]:
        """Return the answers to texts for any adapters. Text is generated with the adapters' own decoding settings."""
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

    def most_new_tokens(self, resident: Resident, prompt: int, beams: int = 1) -> int:
        """Return for how many new tokens, after a prompt of `prompt` tokens, positions and memory can suffice.

        Other answers count as ended, and idle adapters as evicted. Thread-safe.
        """
        start = resident.virtual_tokens[0] + prompt
        left, room = self.backbone.longest - start, self._residents.room(resident.digest)
        if room is None:
            return left
        room -= stacked_bytes(resident.batched if isinstance(resident, SharedResident) else None)
        answers = range(start + 1, start + left + 1)
        return bisect_right(answers, room, key=lambda columns: resident.opened.most_bytes(columns) * beams)

    @cached_property
    def generations(self) -> Generations:
        """The running generations of a server, which one thread computes step by step. `predict` has its own."""
        return self._new_generations(self._memory)

    def _new_generations(self, memory: ReservedMemory) -> Generations:
        return Generations(self.hosts.computing, self._residents, self.backbone.tokenizer, memory)

    def probe(self, lease: Lease) -> np.ndarray:
        """Compute the golden test: an adapter's outputs for the built-in sentences, which its manifest also records.

        Returns:
            The outputs [sentence, label]; for entities, [word, tag] of the words of all sentences; for an adapter that
            generates text, the log-probabilities of fixed tokens, [sentence, token].
        """
        return golden_outputs(self.hosts.computing, self._batches, self._tokenizer, lease)

    def compute(self, rows: Sequence[SinglePass]) -> list[Outcome]:
        """Return the prediction or the error of each text, in the order of the texts.

        Texts of different adapters are computed in the same forward passes.
        """
        return self._batches.outcomes(rows)

    def open(self, row: SinglePass) -> ChunkedPass | WindowedPass | None:
        """Reserve the memory for a text that is computed in chunks, and return the text. The caller must `close` it.

        Returns None if there is now no memory for the text's keys and values. The adapter's model must be able to
        compute texts in chunks (`Resident.takes_chunks`), or the text must have windows (`EncodedText.words`).
        """
        return self._batches.open(row)

    def compute_chunks(self, chunks: Sequence[tuple[ChunkedPass | WindowedPass, int]]) -> list[Outcome | None]:
        """Compute the next chunk, or the next windows, of each text.

        Returns the prediction or the error of each text; None for a text that is not complete.

        Args:
            chunks: The texts that `open` returned, each with the largest number of tokens to compute now.
        """
        return self._batches.chunk_outcomes(chunks)

    def _started(self, adapter: Address | Lease, stack: ExitStack) -> Lease | AfinaError:
        """Return a lease on an adapter, which may still be loading, or the error of finding the adapter."""
        if isinstance(adapter, Lease):
            return adapter
        try:
            return stack.enter_context(self.lease(adapter))
        except AfinaError as error:
            return error

    def _loaded(self, lease: Lease | AfinaError, adapter: Address | Lease, stack: ExitStack) -> Lease:
        """Wait for an adapter to be loaded, and return a lease on it.

        If the adapter was removed or replaced while it was loaded, it is looked up and loaded once more.
        """
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
        """Close the engine: it loads no more adapters, and running requests are still answered."""
        self._residents.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
