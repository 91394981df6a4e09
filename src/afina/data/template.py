"""Template: what a text stands in when a model is asked about it. Knows tokenizers; no model, label or task."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from transformers import PreTrainedTokenizerBase

from afina.errors import InvalidStudy

Tokenizer = PreTrainedTokenizerBase
"""What those may call it that do not know the library."""

_BRIEF = 80
"""Characters of a template that a message shows."""

TEXT, PAIR = "{text}", "{text_pair}"


@dataclass(frozen=True)
class Template:
    r"""What has `{text}` in it once, and `{text_pair}` at most once, such as `Review: {text}\nSentiment:`.

    Other braces stand for themselves, in the template and in the texts.
    """

    source: str

    def __post_init__(self) -> None:
        if self.source.count(TEXT) != 1 or self.source.count(PAIR) > 1:
            raise InvalidStudy(
                f"`template` {self._brief}: expected {TEXT} in it once, and {PAIR} at most once, such as "
                r"'Review: {text}\nSentiment:'.",
                code="template.invalid",
                template=self.source,
            )

    @property
    def _brief(self) -> str:
        """For messages: its beginning, quoted."""
        return repr(self.source if len(self.source) <= _BRIEF else self.source[: _BRIEF - 1] + "…")

    @property
    def takes_pairs(self) -> bool:
        """Whether it has a place for a second text."""
        return PAIR in self.source

    def check_pairs(self, pairs: bool) -> None:
        """Raise InvalidStudy unless it has a place for each text of an example, and no other."""
        if pairs != self.takes_pairs:
            found = "pairs of texts" if pairs else "single texts"
            advice = f"Add {PAIR}." if pairs else f"Take {PAIR} out of it, or name a column with `text_pair`."
            raise InvalidStudy(
                f"`template` {self._brief}: the examples are {found}. {advice}",
                code="template.invalid",
                template=self.source,
                pairs=pairs,
            )

    def render(self, text: str, pair: str | None = None) -> str:
        """The text, or pair, in its place."""
        return self._laid(text, pair)[0]

    def check_length(self, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
        """Raise InvalidStudy where it leaves no token to a text."""
        length = len(tokenizer(self.render("", ""), verbose=False)["input_ids"])
        if length >= max_length:
            raise InvalidStudy(
                f"`template` {self._brief} has {length} tokens, and `max_length` is {max_length}: that leaves none "
                "to the text. Give a shorter one, or a greater maximum.",
                code="template.invalid",
                template=self.source,
                tokens=length,
                max_length=max_length,
            )

    def shortened(
        self, tokenizer: PreTrainedTokenizerBase, text: str, pair: str | None, max_length: int
    ) -> tuple[np.ndarray, bool]:
        """Token ids, int32, of the example in its place, at most `max_length`, and whether a text was cut for that.

        Texts lose their ends (their beginnings where the tokenizer truncates on the left), the longer of a pair first;
        the template loses nothing. Raises InvalidStudy where it leaves no room.
        """
        parts, cut = [text, *([] if pair is None else [pair])], False
        while True:
            rendered, spans = self._laid(*parts)
            found = tokenizer(rendered, return_offsets_mapping=True, verbose=False)
            over = len(found["input_ids"]) - max_length
            if over <= 0:
                return np.asarray(found["input_ids"], dtype=np.int32), cut
            if not any(parts):
                self.check_length(tokenizer, max_length)  # raises: it is the template that is too long
            left = tokenizer.truncation_side == "left"
            parts, cut = _cut(parts, spans, np.asarray(found["offset_mapping"]), over, left=left), True

    @cached_property
    def _literals(self) -> tuple[list[str], list[int]]:
        """What stands around the texts, and which text, 0 or 1, comes after each but the last."""
        places = sorted(
            (self.source.index(mark), number, mark) for number, mark in ((0, TEXT), (1, PAIR)) if mark in self.source
        )
        literals, start = [], 0
        for place, _, mark in places:
            literals.append(self.source[start:place])
            start = place + len(mark)
        return [*literals, self.source[start:]], [number for _, number, _ in places]

    def _laid(self, text: str, pair: str | None = None) -> tuple[str, list[tuple[int, int]]]:
        """The whole as one string, and where in it the text and the pair stand, (start, end) each."""
        literals, order = self._literals
        given, spans = (text, pair or ""), {}
        whole = literals[0]
        for number, literal in zip(order, literals[1:], strict=True):
            spans[number] = (len(whole), len(whole) + len(given[number]))
            whole += given[number] + literal
        return whole, [spans[number] for number in sorted(spans)]


def _cut(parts: list[str], spans: list[tuple[int, int]], offsets: np.ndarray, over: int, *, left: bool) -> list[str]:
    """The parts without `over` tokens, as near as whole characters allow, and without one character at least.

    spans  where each part stands in what was tokenised;  offsets  int64 [T, 2], where each token does
    """
    inside = [offsets[(offsets[:, 0] >= a) & (offsets[:, 1] <= b) & (offsets[:, 0] < offsets[:, 1])] for a, b in spans]
    keep = [len(tokens) for tokens in inside]
    for _ in range(min(over, sum(keep))):
        keep[keep.index(max(keep))] -= 1
    if not any(map(len, inside)):  # what is left shares its tokens with the template
        return ["" for _ in parts]
    made = []
    for part, (start, _), tokens, count in zip(parts, spans, inside, keep, strict=True):
        if count == len(tokens):
            made.append(part)
        elif left:
            made.append(part[int(tokens[len(tokens) - count - 1, 1]) - start :])
        else:
            made.append(part[: int(tokens[count, 0]) - start])
    return made
