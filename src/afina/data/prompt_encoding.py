"""`PromptEncoding`: the token ids of prompts with training examples before each text, and whether the examples fit.

An example is never cut, and no text is cut because of the examples: examples that leave too little room are refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from afina.data import problems
from afina.data.kinds import FIXED
from afina.data.shots import PromptExamples
from afina.data.split import Split
from afina.data.template import Template
from afina.data.tokenize import Encoded, Tokenizer, encode, encode_each


@dataclass(frozen=True, eq=False)
class PromptEncoding:
    """The tokenization of prompts with examples.

    Attributes:
        text_length: The maximum number of tokens of a text in its template, without examples.
        most: The maximum number of tokens of a prompt, which the backbone sets.
    """

    examples: PromptExamples
    tokenizer: Tokenizer
    text_length: int
    most: int

    @cached_property
    def plain(self) -> int:
        """The number of tokens of the template alone, without examples and without a text."""
        return self._lengths([self.examples.template])[0]

    @property
    def max_length(self) -> int:
        """The maximum number of tokens of a prompt with the fixed examples."""
        return self._most(self._lengths([self.examples.fixed])[0])

    def encode(self, split: Split, without: Encoded, where: str) -> Encoded:
        """Tokenize the prompts of a split, whose texts have the token ids `without` in the template without examples.

        Raises InvalidStudy if the examples leave too few tokens for the longest text.
        """
        room = int(without.lengths.max(initial=0)) - self.plain
        templates = self.examples.templates(split.texts, split.pairs)
        lengths = self._lengths(templates)
        if max(lengths, default=0) + room > self.most:
            raise problems.SHOTS_DO_NOT_FIT(
                shots=self.examples.shots.count,
                tokens=max(lengths) - self.plain,
                room=room + self.plain,
                most=self.most,
                fits=self._fitting(split, room),
            )
        if self.examples.shots.draw == FIXED:
            length, template = self.max_length, self.examples.fixed
            found = encode(self.tokenizer, split.texts, split.pairs, max_length=length, template=template, where=where)
        else:
            found = encode_each(
                self.tokenizer, templates, split.texts, split.pairs, [self._most(one) for one in lengths]
            )
        return Encoded(found.tokens, found.offsets, without.truncated)

    def _most(self, tokens: int) -> int:
        """Return the maximum number of tokens of a prompt whose template has `tokens` tokens."""
        return min(self.text_length + tokens - self.plain, self.most)

    def _lengths(self, templates: Sequence[Template]) -> list[int]:
        """Return the number of tokens of each template without a text; equal templates are tokenized once."""
        once = list(dict.fromkeys(templates))
        empty = [template.render("", "") for template in once]
        found = dict(zip(once, map(len, self.examples.template.ids(self.tokenizer, empty)), strict=True))
        return [found[template] for template in templates]

    def _fitting(self, split: Split, room: int) -> int:
        """Return the largest number of examples that leave `room` tokens for a text."""
        for count in range(self.examples.shots.count - 1, 0, -1):
            templates = self.examples.templates(split.texts, split.pairs, count)
            if max(self._lengths(templates)) + room <= self.most:
                return count
        return 0
