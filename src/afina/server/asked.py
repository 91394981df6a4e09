"""Asked: texts for one adapter, on their way to answers. Knows no protocol and no store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from afina.errors import AfinaError, InvalidData
from afina.inference.reading import takes_pairs
from afina.models.manifest import Manifest
from afina.models.objective import Objective
from afina.server.receipt import Receipt
from afina.server.settings import Settings
from afina.server.shadows import Ride
from afina.serving.answering import Prediction
from afina.serving.residents import Lease
from afina.store.keys import Key


class Text(NamedTuple):
    """One text, or a pair, as it came."""

    text: str
    pair: str | None = None


@dataclass(frozen=True, eq=False)
class Answer:
    """Of one text. tokens: those that were computed or, where the adapter reads none, counted."""

    prediction: Prediction
    objective: Objective
    receipt: Receipt
    tokens: int


@dataclass(eq=False)
class Asked:
    """Texts for one adapter, which is loaded, and kept until `release`; ride: what is compared with it, if anything."""

    key: Key
    texts: Sequence[Text]
    tokens: Sequence[int]
    lease: Lease
    manifest: Manifest
    objective: Objective
    receipt: Receipt
    ride: Ride | None = None

    def release(self) -> None:
        """Give back what answered; once."""
        self.lease.release()
        if self.ride is not None:
            self.ride.release()

    def answer(self, index: int, outcome: Prediction | AfinaError) -> Answer:
        """Of the text at that place. Raises the outcome, where it is an error."""
        if isinstance(outcome, AfinaError):
            raise outcome
        return Answer(outcome, self.objective, self.receipt, outcome.tokens or self.tokens[index])


def fits(texts: Sequence[Text], manifest: Manifest) -> None:
    """Raise InvalidData for pairs where an adapter was trained on single texts, or single texts where on pairs."""
    takes = takes_pairs(manifest)
    if takes is False and any(text.pair is not None for text in texts):
        raise InvalidData(
            "This model takes single texts; leave out `pair`.", code="data.pairs-mismatch", expected="texts"
        )
    if takes and any(text.pair is None for text in texts):
        raise InvalidData(
            "This model takes pairs of texts; give `pair` too.", code="data.pairs-mismatch", expected="pairs"
        )


def check(texts: Sequence[Text], settings: Settings) -> None:
    """Raise InvalidData for more than may be asked at once, and for texts that nobody could read."""
    if not 1 <= len(texts) <= settings.texts:
        raise InvalidData(
            f"Found {len(texts):,} texts, expected 1 to {settings.texts:,}.",
            code="request.texts-count",
            found=len(texts),
            most=settings.texts,
        )
    for number, text in enumerate(texts, start=1):
        name = "The text" if len(texts) == 1 else f"Text {number} of {len(texts)}"
        for part, where in ((text.text, name), (text.pair, f"The pair of {name.lower()}")):
            if part is None:
                continue
            if len(part) > settings.characters:
                expected = f"expected at most {settings.characters:,}"
                raise InvalidData(
                    f"{where} has {len(part):,} characters, {expected}.",
                    code="request.text-invalid",
                    where=where,
                    characters=len(part),
                )
            if not part.strip():
                raise InvalidData(f"{where} is empty.", code="request.text-invalid", where=where)
