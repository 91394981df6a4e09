"""`Shots`: how many training examples stand in a prompt before the text, and which ("in-context learning", "few-shot").

The examples are the same for all texts, or for each text the most similar training texts. Each example is a training
text in the task's own template, followed by its target. The module does not know models and tokenizers, and can be
imported without torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice

import numpy as np

from afina.data import problems
from afina.data.kinds import FIXED, NEAREST, Draw
from afina.data.nearest_text import NearestText
from afina.data.readers.splitting import identity, rank
from afina.data.readers.target_kinds import TARGETS
from afina.data.split import Example, Split
from afina.data.task import Task
from afina.data.template import PAIR, TEXT, Template
from afina.data.terms import joined
from afina.digest import derive_seed

BETWEEN = "\n\n"
"""The text between two examples of a prompt, and between the last example and the text."""


@dataclass(frozen=True)
class Shots:
    """The number of training examples in a prompt, and which examples.

    Attributes:
        count: The number of examples. 0: none.
        draw: "fixed": the same examples before each text, drawn by a stable hash of their texts and the seed, with
            equal shares of the classes as far as possible. "nearest": for each text the most similar training texts by
            TF-IDF of words and pairs of words, the most similar last.
        seed: The seed of the fixed draw. Another seed draws other examples.
    """

    count: int = 0
    draw: Draw = FIXED
    seed: int = 0

    def of(self, task: Task, template: Template, words: Mapping[str, Sequence[str]] | None = None) -> PromptExamples:
        """Return the examples of a task's prompts.

        Evaluation texts and texts that were set aside are never examples of the fixed draw, nor is a text its own
        example. A training text that contains `{text}` or `{text_pair}` is no example. Of equal training texts, only
        the first can be an example. Raises InvalidStudy if the template is a chat template, or if too few training
        texts can be examples.
        """
        if not template.special_tokens:
            raise problems.SHOTS_IN_CHAT_TEMPLATE(shots=self.count)
        held_out = (task.evaluation, *task.aside)
        aside = {identity(example) for part in held_out for example in part} if self.draw == FIXED else set()
        kind, train = TARGETS[task.kind], task.train
        answers = kind.answers(task.label_names, train.labels, words)
        kept: dict[str, int] = {}
        for place, (example, answer) in enumerate(zip(train, answers, strict=True)):
            shown = _rendered(template, example, answer)
            if TEXT not in shown and PAIR not in shown:
                kept.setdefault(identity(example), place)
        kept = {same: place for same, place in kept.items() if same not in aside}
        needed = self.count + (self.draw == NEAREST)  # a text may be a training text itself
        if len(kept) < needed:
            raise problems.SHOTS_TOO_MANY(shots=self.count, task=task.address, found=len(kept), expected=needed)
        places = list(kept.values())
        split = train.take(places)
        return PromptExamples(
            template=template,
            shots=self,
            split=split,
            answers=tuple(answers[place] for place in places),
            strata=kind.drawn_strata(split.labels, self.count),
        )


@dataclass(frozen=True, eq=False)
class PromptExamples:
    """The training examples of the prompts of a task, and the prompt template of each text.

    Attributes:
        template: The template of the task's prompts, without examples.
        split: The N training examples that can be drawn.
        strata: int64 [N]; the fixed draw has equal shares of the strata as far as possible.
    """

    template: Template
    shots: Shots
    split: Split
    answers: tuple[str, ...]
    strata: np.ndarray

    @cached_property
    def order(self) -> tuple[int, ...]:
        """The indices in `split` of all examples in the order of the fixed draw.

        The draw goes round the strata in a random order, and takes one example of each stratum in each round. A stable
        hash of the example's text decides which, so that the order of the training texts does not matter.
        """
        purpose = f"shots {self.shots.seed}"
        ranks = [rank(example, purpose) for example in self.split]
        strata = self.strata.tolist()
        drawn: dict[int, int] = {}  # the number of examples by stratum
        turns: list[tuple[int, int, int]] = []
        for place in sorted(range(len(ranks)), key=ranks.__getitem__):
            turn = drawn.get(strata[place], 0)
            drawn[strata[place]] = turn + 1
            turns.append((turn, derive_seed(self.shots.seed, "shots", turn, strata[place]), place))
        return tuple(place for _, _, place in sorted(turns))

    @cached_property
    def drawn(self) -> Split:
        return self.split.take(self.order[: self.shots.count])

    @cached_property
    def fixed(self) -> Template:
        return self.first(self.shots.count)

    def first(self, count: int) -> Template:
        return self.template.after(self._rendered(self.order[:count]), BETWEEN)

    def besides(self, split: Split, count: int) -> Split:
        """Return the first `count` texts of a split that are no examples of the fixed draw."""
        own = {identity(example) for example in self.drawn} if self.shots.draw == FIXED else set()
        chosen = islice((place for place, example in enumerate(split) if identity(example) not in own), count)
        return split.take(list(chosen))

    def templates(
        self, texts: Sequence[str], pairs: Sequence[str] | None = None, count: int | None = None
    ) -> list[Template]:
        """Return for each text the template that has the text's examples before it, or only `count` examples.

        With the draw "nearest", the last example is the most similar one. If fewer training texts share a word with a
        text, examples of the fixed draw fill the prompt, and stand first.
        """
        count = self.shots.count if count is None else count
        if self.shots.draw == FIXED:
            return [self.first(count)] * len(texts)
        seconds: Sequence[str | None] = pairs or [None] * len(texts)
        found = self._nearest.places(joined(texts, pairs), count + 1).tolist()
        made = []
        for text, pair, near in zip(texts, seconds, found, strict=True):
            own = identity(Example(text, 0, pair))
            several = chain((place for place in near if place >= 0), self.order)
            others = dict.fromkeys(place for place in several if self._identities[place] != own)
            made.append(self.template.after(self._rendered(list(others)[:count][::-1]), BETWEEN))
        return made

    @property
    def note(self) -> str:
        """A sentence for the user on the examples: which they are, and whether an adapter contains their texts."""
        count = f"{self.shots.count} training text{'s' * (self.shots.count != 1)}"
        if self.shots.draw == FIXED:
            return (
                f"Each prompt has {count} with their targets as examples, the same for all texts. The template of the "
                "adapter contains these texts, so everyone with the adapter can read them."
            )
        return f"Each prompt has the {count} that are most similar to its text, by TF-IDF, with their targets."

    @cached_property
    def _nearest(self) -> NearestText:
        return NearestText(joined(self.split.texts, self.split.pairs))

    @cached_property
    def _identities(self) -> list[str]:
        return [identity(example) for example in self.split]

    def _rendered(self, places: Sequence[int]) -> list[str]:
        return [_rendered(self.template, self.split[place], self.answers[place]) for place in places]


def _rendered(template: Template, example: Example, answer: str) -> str:
    return template.followed(template.render(example.text, example.text_pair), answer)
