"""Evaluated: the texts that runs were evaluated on, read again for a reader of the report, or why they are not shown.

Never fetches anything. Knows no record: whoever shows a text compares the digests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from afina.errors import AfinaError
from afina.studies.spec import Data


@dataclass(frozen=True)
class Evaluated:
    """The texts of an evaluation split, a pair as one text.

    texts   N strings, or None where they are not to be shown or not at hand; `reason` then says why
    digest  the split's digest; texts of another split than the records' are not shown
    """

    texts: Sequence[str] | None = None
    digest: str = ""
    reason: str = ""

    @classmethod
    def read(cls, address: str, data: Data) -> Evaluated:
        """Those of the task at `address`, read as `data` says; the reason where that fails or would take a network."""
        from afina.data.task import is_at_hand
        from afina.studies.task_facts import evaluation_of

        if not is_at_hand(address):
            return cls(reason="the task is not on this machine, and a report uses no network")
        try:
            split = evaluation_of(address, data)
        except AfinaError:
            return cls(reason="the task could not be read again")
        pairs = split.pairs
        texts = split.texts if pairs is None else [f"{a} ⏎ {b}" for a, b in zip(split.texts, pairs, strict=True)]
        return cls(texts, split.digest)


WITHHELD = Evaluated(reason="texts were left out on request")
