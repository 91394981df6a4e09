"""`Template`: a prompt template around a text or a pair, with its token ids and the truncation of the texts in it.

The module can be imported without torch and without transformers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from afina.data import problems
from afina.sentence import Sentence

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BRIEF = 80
"""The largest number of characters of a prompt template in an error message."""

TEXT, PAIR = "{text}", "{text_pair}"

_NAME_IN_BRACES = re.compile(r"\{[^\W\d]\w*\}")


@dataclass(frozen=True)
class Template:
    r"""A prompt template, such as `Review: {text}\nSentiment:`.

    A template contains `{text}` once, and `{text_pair}` at most once. All other braces, also in the texts, are literal.

    Attributes:
        source: The template as a string.
        special_tokens: Whether the tokenizer adds its special tokens. False for a chat template, which contains them.
    """

    source: str
    special_tokens: bool = True

    def __post_init__(self) -> None:
        if self.source.count(TEXT) != 1 or self.source.count(PAIR) > 1:
            raise problems.TEMPLATE_WITHOUT_TEXT(template=self.source, _brief=self._brief)

    @property
    def _brief(self) -> str:
        return repr(self.source if len(self.source) <= _BRIEF else self.source[: _BRIEF - 1] + "…")

    @property
    def takes_pairs(self) -> bool:
        return PAIR in self.source

    def check_pairs(self, pairs: bool) -> None:
        """Raise InvalidStudy unless the template contains `{text_pair}` exactly if the examples are pairs of texts."""
        if pairs != self.takes_pairs:
            found = "pairs of texts" if pairs else "single texts"
            declared = "Add {pair}." if pairs else "Remove {pair}, or name the column of second texts with `text_pair`."
            advice = Sentence.of(declared, pair=PAIR)
            raise problems.TEMPLATE_OF_OTHER_TEXTS(
                found=found, template=self.source, pairs=pairs, _brief=self._brief, _advice=advice
            )

    def check_fields(self, columns: Sequence[str] = ()) -> None:
        """Raise InvalidStudy for a name in braces that is no text; the message offers `columns`."""
        texts = [TEXT, PAIR] if self.takes_pairs else [TEXT]
        unknown = [each for each in _NAME_IN_BRACES.findall(self.source) if each not in (TEXT, PAIR)]
        if unknown:
            raise problems.TEMPLATE_COLUMN_UNKNOWN(
                expected=columns or texts, template=self.source, found=unknown[0], _brief=self._brief
            )

    def ids(self, tokenizer: PreTrainedTokenizerBase, rendered: list[str]) -> list[list[int]]:
        """Return the token ids of rendered prompts, without truncation."""
        given = tokenizer(rendered, return_attention_mask=False, verbose=False, add_special_tokens=self.special_tokens)
        found: list[list[int]] = given["input_ids"]
        return found

    def followed(self, prompt: str, answer: str) -> str:
        """Concatenate a rendered prompt and its answer, with a space between them unless the prompt ends a line.

        In a chat template, which has its own special tokens, no space is added.
        """
        joined = not self.special_tokens or prompt.endswith("\n")
        return f"{prompt}{'' if joined else ' '}{answer}"

    def after(self, examples: Sequence[str], between: str) -> Template:
        """Return the template of a prompt with `examples` before this template, separated by the text `between`.

        No example may contain `{text}` or `{text_pair}`.
        """
        return replace(self, source=between.join([*examples, self.source]))

    def render(self, text: str, pair: str | None = None) -> str:
        return self._laid(text, pair)[0]

    def check_length(self, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
        """Raise InvalidStudy if the template alone has `max_length` or more tokens."""
        length = len(self.ids(tokenizer, [self.render("", "")])[0])
        if length >= max_length:
            raise problems.TEMPLATE_TOO_LONG(
                template=self.source, tokens=length, max_length=max_length, _brief=self._brief
            )

    def shortened(
        self, tokenizer: PreTrainedTokenizerBase, text: str, pair: str | None, max_length: int
    ) -> tuple[np.ndarray, bool]:
        """Return the token ids (int32) of an example in the template, and whether a text had to be truncated.

        Texts are truncated at their ends, or at their beginnings if the tokenizer truncates on the left; of a pair, the
        longer text is truncated first. The template is not truncated. Raises InvalidStudy if the template alone has
        more than `max_length` tokens.
        """
        parts, cut = [text, *([] if pair is None else [pair])], False
        while True:
            rendered, spans = self._laid(*parts)
            found = tokenizer(
                rendered, return_offsets_mapping=True, verbose=False, add_special_tokens=self.special_tokens
            )
            over = len(found["input_ids"]) - max_length
            if over <= 0:
                return np.asarray(found["input_ids"], dtype=np.int32), cut
            if not any(parts):
                self.check_length(tokenizer, max_length)  # raises, since the template is too long
            left = tokenizer.truncation_side == "left"
            parts, cut = _cut(parts, spans, np.asarray(found["offset_mapping"]), over, left=left), True

    @cached_property
    def _literals(self) -> tuple[list[str], list[int]]:
        """The literal parts of the template, and for each part except the last which text (0 or 1) follows it."""
        places = sorted(
            (self.source.index(mark), number, mark) for number, mark in ((0, TEXT), (1, PAIR)) if mark in self.source
        )
        literals, start = [], 0
        for place, _, mark in places:
            literals.append(self.source[start:place])
            start = place + len(mark)
        return [*literals, self.source[start:]], [number for _, number, _ in places]

    def _laid(self, text: str, pair: str | None = None) -> tuple[str, list[tuple[int, int]]]:
        """Return the template filled with a text or pair, and the (start, end) of each text in the filled template."""
        literals, order = self._literals
        given, spans = (text, pair or ""), {}
        whole = literals[0]
        for number, literal in zip(order, literals[1:], strict=True):
            spans[number] = (len(whole), len(whole) + len(given[number]))
            whole += given[number] + literal
        return whole, [spans[number] for number in sorted(spans)]


def _cut(parts: list[str], spans: list[tuple[int, int]], offsets: np.ndarray, over: int, *, left: bool) -> list[str]:
    """Return the texts of an example (`parts`) shortened by about `over` tokens, and by at least one character.

    `spans` are the (start, end) of the texts, and `offsets` int64 [T, 2] those of the tokens, in the tokenized string.
    """
    inside = [offsets[(offsets[:, 0] >= a) & (offsets[:, 1] <= b) & (offsets[:, 0] < offsets[:, 1])] for a, b in spans]
    keep = [len(tokens) for tokens in inside]
    for _ in range(min(over, sum(keep))):
        keep[keep.index(max(keep))] -= 1
    if not any(map(len, inside)):  # the rest of the texts shares its tokens with the template
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
