"""Counting: tokens of texts before they wait, as far as anybody has to know. Knows no adapter and no key.

A tokenizer reads a long text for milliseconds. Asked for a batch, it lets other threads go on meanwhile, asked for one
text it does not: beside a few who send long texts, everybody else waited for seconds.
"""

from __future__ import annotations

import copy
import threading
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from afina.server.asked import Text

BEGINNING = 8
"""Characters of a text that are read at first, a token that it may count. Most texts have four or five a token."""


class Counter:
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
