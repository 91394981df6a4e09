"""Texts of a request and their answers: checks and token counts. Knows no protocol and no store.

Tokenizing a long text takes milliseconds. The tokenizer releases the GIL while it tokenizes a batch, but not while it
tokenizes a single text. With single texts, a few clients with long texts made all others wait for seconds.
"""

from __future__ import annotations

import copy
import threading
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from afina.errors import AfinaError, InvalidData
from afina.inference.reading import takes_pairs
from afina.models.manifest import Manifest
from afina.models.objective import Objective
from afina.server.answer_formats import ANSWER_FORMATS, LabelScore
from afina.server.limits import Settings
from afina.server.receipts import Receipt
from afina.server.shadows import ShadowLease
from afina.serving.mixed_batches import Prediction
from afina.serving.residents import Lease
from afina.store.keys import Key


class Text(NamedTuple):
    """One text, or a pair of texts, as the client sent it."""

    text: str
    pair: str | None = None


@dataclass(frozen=True, eq=False)
class ServedAnswer:
    """The answer to one text. `tokens`: tokens that were computed or, if the adapter reads no tokens, counted."""

    prediction: Prediction
    objective: Objective
    receipt: Receipt
    tokens: int

    def scores(self, *, raw: bool = False) -> Sequence[LabelScore]:
        """Return the score of each label, in the adapter's order. `raw`: logits instead of probabilities."""
        written = ANSWER_FORMATS[self.objective.kind]
        return (written.raw_scores if raw else written.scores)(self.objective, self.prediction)

    def ranked(self, *, raw: bool = False, most: int | None = None) -> Sequence[dict[str, object]]:
        """Return scores as JSON values, in falling order. `most`: number of labels; None: all."""
        ordered = sorted(self.scores(raw=raw), key=lambda one: -one.score)
        return [one._asdict() for one in ordered[:most]]

    @property
    def label(self) -> str:
        """The label of the answer. For multi-label tasks: the most probable label."""
        return ANSWER_FORMATS[self.objective.kind].label(self.objective, self.prediction)


@dataclass(eq=False)
class AcceptedRequest:
    """Texts of one request, and a lease of the loaded adapter until `release`.

    `shadow`: lease of the shadow version.
    """

    key: Key
    texts: Sequence[Text]
    tokens: Sequence[int]
    lease: Lease
    manifest: Manifest
    objective: Objective
    receipt: Receipt
    shadow: ShadowLease | None = None

    def release(self) -> None:
        """Release the leases. Call this once."""
        self.lease.release()
        if self.shadow is not None:
            self.shadow.release()

    def answer(self, index: int, outcome: Prediction | AfinaError) -> ServedAnswer:
        """Return the answer to the text at `index`. Raises the outcome if it is an error."""
        if isinstance(outcome, AfinaError):
            raise outcome
        return ServedAnswer(outcome, self.objective, self.receipt, outcome.tokens or self.tokens[index])


def check_pairs(texts: Sequence[Text], manifest: Manifest) -> None:
    """Raise InvalidData for pairs if the adapter was trained on single texts, and the reverse."""
    takes = takes_pairs(manifest)
    if takes is False and any(text.pair is not None for text in texts):
        raise InvalidData(
            "This model takes single texts. Leave out `pair`.", code="data.pairs-mismatch", expected="texts"
        )
    if takes and any(text.pair is None for text in texts):
        raise InvalidData(
            "This model takes pairs of texts. Give `pair` too.", code="data.pairs-mismatch", expected="pairs"
        )


def check_texts(texts: Sequence[Text], settings: Settings) -> None:
    """Raise InvalidData for too many texts, and for empty or too long texts."""
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


BEGINNING = 8
"""Characters per token in the first piece of a text that is tokenized. Most texts have four or five."""


class TokenCounter:
    """Counts tokens. Thread-safe; tokenizes one text per client at a time. `tokenizer`: the backbone's."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = copy.deepcopy(
            tokenizer.backend_tokenizer
        )  # a copy, since other code changes the truncation of the original
        self._tokenizer.no_truncation()
        self._turns: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    def count(self, text: Text, longest: int) -> int:
        """Return the number of tokens of a text without template: at least 1, at most `longest`.

        Only as much of the text is tokenized as needed. If the first piece has fewer tokens than `longest`, further
        pieces are tokenized separately, which may give a few more tokens than the whole text has.
        """
        whole = text.text if text.pair is None else f"{text.text} {text.pair}"
        counted, start, size = 0, 0, BEGINNING * longest
        while start < len(whole) and counted < longest:
            piece = whole[start : start + size]
            counted += len(self._tokenizer.encode_batch_fast([piece])[0])
            start, size = start + size, 2 * size
        return max(1, min(counted, longest))

    def counts(self, client: str, texts: Sequence[Text], longest: int, most: int | None) -> list[int]:
        """Return the number of tokens of each text, at most `longest`.

        Stops after the text with which the sum exceeds `most`. None: no limit.
        """
        found, total = list[int](), 0
        for text in texts:
            left = longest if most is None else min(longest, most + 1 - total)
            if left < 1:
                break
            with self._turns[client]:
                found.append(self.count(text, left))
            total += found[-1]
        return found
