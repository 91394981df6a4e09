"""The tokens of target texts, and the sequences of prompt and target on which a language model is trained.

The target's tokens are found by comparing the token ids of the prompt with those of the prompt and its target.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from afina.data import problems
from afina.data.batch import IGNORED
from afina.data.kinds import Long
from afina.data.split import Split, as_references
from afina.data.template import Template
from afina.data.tokenize import Encoded, Tokenizer
from afina.sentence import Sentence

_CHUNK = 4096


@dataclass(frozen=True, eq=False)
class References:
    """The tokens of the target texts of N examples; an example may have several target texts.

    Attributes:
        tokens: R token sequences, one for each target text; each ends with the end-of-sequence token.
        owners: int64 [R], ascending: for each token sequence, the index of its example.
    """

    tokens: Encoded
    owners: np.ndarray

    @property
    def longest(self) -> int:
        """The number of tokens of the longest target, including the end-of-sequence token; 0 without targets."""
        return int(self.tokens.lengths.max(initial=0))

    def sequences(self, prompts: Encoded) -> tuple[Encoded, Encoded]:
        """Return the input sequences of a language model, one for each target text, and the target of each input token.

        The target of a token is the next token; tokens of the prompt before the last have the target IGNORED.
        """
        inputs, targets, lengths = [], [], []
        for number, owner in enumerate(self.owners.tolist()):
            prompt, answer = prompts[owner], self.tokens[number]
            inputs += [prompt, answer[:-1]]
            targets += [np.full(len(prompt) - 1, IGNORED, np.int32), answer]
            lengths.append(len(prompt) + len(answer) - 1)
        offsets = np.concatenate([[0], np.cumsum(np.array(lengths, np.int64))]).astype(np.int64)
        none = np.zeros(0, np.int32)
        return tuple(Encoded(np.concatenate([none, *each]), offsets, 0) for each in (inputs, targets))  # type: ignore[return-value]

    def cut(self, most: int) -> References:
        return References(Encoded.of([self.tokens[number][:most] for number in range(len(self.tokens))]), self.owners)

    def take(self, examples: np.ndarray) -> References:
        kept = np.isin(self.owners, examples)
        chosen = [self.tokens[int(number)] for number in np.flatnonzero(kept)]
        return References(Encoded.of(chosen), np.searchsorted(examples, self.owners[kept]))


@dataclass(frozen=True)
class LeftOut:
    targets: int = 0
    rows: tuple[int, ...] = ()


def without_long(
    split: Split, references: References, max_length: int, long: Long, where: str
) -> tuple[Split, References, LeftOut]:
    """Return a split and its target tokens without the target texts of more than half of `max_length` tokens.

    Examples that have no target left are left out, too. Raises InvalidData if a target is too long and `long` is
    "refuse", or if each target is too long.
    """
    lengths, most = references.tokens.lengths, max_length // 2
    fits = lengths <= most
    if fits.all():
        return split, references, LeftOut()
    row = int(references.owners[int(np.argmax(lengths))])
    if long == "refuse" or not fits.any():
        every = "" if fits.any() else "Each target is too long. "
        raise problems.TARGET_TOO_LONG(
            max_length=max_length,
            row=row + 1,
            found=references.longest,
            most=most,
            _where=where,
            _every=every,
            _skip=Sentence.of(", or leave such rows out with `long` skip") if fits.any() else "",
        )
    kept, owners = np.unique(references.owners[fits], return_inverse=True)
    tokens = Encoded.of([references.tokens[number] for number in np.flatnonzero(fits).tolist()])
    each = zip((target for row in split.labels for target in row), fits.tolist(), strict=True)
    fitting = iter([target for target, is_kept in each if is_kept])
    labels = as_references(tuple(islice(fitting, count)) for count in np.bincount(owners).tolist())
    rows = np.setdiff1d(np.arange(len(split)), kept)
    left = LeftOut(int((~fits).sum()), tuple(rows.tolist()))
    return replace(split.take(kept), labels=labels), References(tokens, owners), left


def encode_references(
    tokenizer: Tokenizer,
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    targets: Sequence[tuple[str, ...]] | np.ndarray,
    template: Template,
    *,
    where: str = "text",
) -> References:
    """Tokenize the target texts in the way that they follow their prompts. Raises InvalidData, InvalidStudy."""
    if (end := tokenizer.eos_token_id) is None:
        raise problems.NO_END_OF_SEQUENCE()
    owners = np.repeat(np.arange(len(targets)), [len(each) for each in targets])
    found: list[np.ndarray] = []
    for ids in _answers(tokenizer, texts, pairs, targets, template, where):
        found.append(np.array([*ids, *([] if ids[-1:] == [end] else [end])], dtype=np.int32))
    return References(Encoded.of(found), owners)


def _answers(
    tokenizer: Tokenizer,
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    targets: Sequence[tuple[str, ...]] | np.ndarray,
    template: Template,
    where: str,
) -> Iterator[list[int]]:
    for start in range(0, len(texts), _CHUNK):
        rows = range(start, min(start + _CHUNK, len(texts)))
        prompts = [template.render(texts[row], None if pairs is None else pairs[row]) for row in rows]
        wholes = [template.followed(prompts[row - start], target) for row in rows for target in targets[row]]
        before, whole = (template.ids(tokenizer, given) for given in (prompts, wholes))
        following = iter(whole)
        for row, prompt in zip(rows, before, strict=True):
            for target in targets[row]:
                ids = next(following)
                if ids[: len(prompt)] != prompt or len(ids) == len(prompt):
                    raise problems.TARGET_SPAN_UNKNOWN(target=target[:40], row=row + 1, _where=where)
                yield ids[len(prompt) :]
