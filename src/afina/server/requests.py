"""A client's texts for one adapter on their way to answers: checked, counted in tokens, answered with a receipt.

A receipt says what answered, enough to have it answer again (`afina replay`); it holds no text. A tokenizer reads a
long text for milliseconds. Asked for a batch, it lets other threads go on meanwhile, asked for one text it does not:
beside a few who send long texts, everybody else waited for seconds. Knows no protocol and no store.
"""

from __future__ import annotations

import copy
import json
import threading
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Self

from afina.errors import AfinaError, InvalidData, InvalidName
from afina.inference.reading import takes_pairs
from afina.models.backbone_spec import FLOAT
from afina.models.manifest import Manifest
from afina.models.objective import Objective
from afina.server.answer_formats import ANSWER_FORMATS, LabelScore
from afina.server.limits import Settings
from afina.server.shadows import ShadowLease
from afina.serving.mixed_batches import Prediction
from afina.serving.residents import Lease
from afina.store.keys import Key


class Text(NamedTuple):
    """One text, or a pair, as it came."""

    text: str
    pair: str | None = None


@dataclass(frozen=True, eq=False)
class ServedAnswer:
    """Of one text. tokens: those that were computed or, where the adapter reads none, counted."""

    prediction: Prediction
    objective: Objective
    receipt: Receipt
    tokens: int

    def scores(self, *, raw: bool = False) -> Sequence[LabelScore]:
        """One a label, in the adapter's order. raw: what the head computed, in the place of probabilities."""
        written = ANSWER_FORMATS[self.objective.kind]
        return (written.raw_scores if raw else written.scores)(self.objective, self.prediction)

    def ranked(self, *, raw: bool = False, most: int | None = None) -> Sequence[dict[str, object]]:
        """Scores as JSON values, the highest first."""
        ordered = sorted(self.scores(raw=raw), key=lambda one: -one.score)
        return [one._asdict() for one in ordered[:most]]

    @property
    def label(self) -> str:
        """The one label to name: the answer's, or the most probable of those that exclude none."""
        return ANSWER_FORMATS[self.objective.kind].label(self.objective, self.prediction)


@dataclass(eq=False)
class AcceptedRequest:
    """Texts for one adapter, which is loaded, and kept until `release`; shadow: what is compared with it."""

    key: Key
    texts: Sequence[Text]
    tokens: Sequence[int]
    lease: Lease
    manifest: Manifest
    objective: Objective
    receipt: Receipt
    shadow: ShadowLease | None = None

    def release(self) -> None:
        """Give back what answered; once."""
        self.lease.release()
        if self.shadow is not None:
            self.shadow.release()

    def answer(self, index: int, outcome: Prediction | AfinaError) -> ServedAnswer:
        """Of the text at that place. Raises the outcome, where it is an error."""
        if isinstance(outcome, AfinaError):
            raise outcome
        return ServedAnswer(outcome, self.objective, self.receipt, outcome.tokens or self.tokens[index])


def check_pairs(texts: Sequence[Text], manifest: Manifest) -> None:
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


def check_texts(texts: Sequence[Text], settings: Settings) -> None:
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


@dataclass(frozen=True)
class Receipt:
    """version    `client/task@3`;  adapter, base  their digests;  dtype  what was computed in
    precision  what the base's frozen weights were held in; "float" is not written
    """

    version: str
    adapter: str
    base: str
    dtype: str
    precision: str = FLOAT

    def __str__(self) -> str:
        return json.dumps(self.as_json(), separators=(",", ":"))

    def as_json(self) -> dict[str, Any]:
        """JSON values."""
        return {key: value for key, value in asdict(self).items() if key != "precision" or value != FLOAT}

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises InvalidName."""
        try:
            given = json.loads(text)
            made = cls(**given)
        except (ValueError, TypeError, RecursionError):
            made = None
        if made is None or not all(isinstance(value, str) for value in asdict(made).values()):
            raise InvalidName(
                f"{text[:80]!r} is no receipt. Expected what an answer has in `Afina-Receipt`: an object of version, "
                "adapter, base and dtype.",
                code="receipt.malformed",
            )
        return made


BEGINNING = 8
"""Characters of a text that are read at first, a token that it may count. Most texts have four or five a token."""


class TokenCounter:
    """May be asked by many threads; of a client, one text is counted at a time. tokenizer: the backbone's."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = copy.deepcopy(tokenizer.backend_tokenizer)  # nobody sets how this one cuts
        self._tokenizer.no_truncation()
        self._turns: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    def count(self, text: Text, longest: int) -> int:
        """Tokens of a text, without template, 1 to `longest`.

        No more of a text is read than that takes. Where its beginning was not enough, pieces are counted by themselves,
        which may give some more tokens than the whole.
        """
        whole = text.text if text.pair is None else f"{text.text} {text.pair}"
        counted, start, size = 0, 0, BEGINNING * longest
        while start < len(whole) and counted < longest:
            piece = whole[start : start + size]
            counted += len(self._tokenizer.encode_batch_fast([piece])[0])
            start, size = start + size, 2 * size
        return max(1, min(counted, longest))

    def counts(self, client: str, texts: Sequence[Text], longest: int, most: int | None) -> list[int]:
        """Of each text, at most `longest`. Ends with the text that makes it more than `most` of all; None: no limit."""
        found, total = list[int](), 0
        for text in texts:
            left = longest if most is None else min(longest, most + 1 - total)
            if left < 1:
                break
            with self._turns[client]:
                found.append(self.count(text, left))
            total += found[-1]
        return found
