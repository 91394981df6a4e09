"""Checks, limits and tokenization of the texts of a request, and the answers to the texts."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from afina.data.readers.source import is_blank
from afina.engine.encoding import EncodedText
from afina.engine.engine import Engine
from afina.engine.mixed_batches import Prediction
from afina.engine.residents import Lease, Resident
from afina.errors import AfinaError, InvalidStudy
from afina.generating.generation import NewTokens
from afina.generating.searches import Guide
from afina.models.decoding import Decoding
from afina.models.manifest import Manifest
from afina.models.objective import Objective
from afina.predicting.reading import Truncation, takes_pairs
from afina.server import problems
from afina.server.answer_formats import ANSWER_FORMATS, LabelScore, TaggedWord
from afina.server.receipts import PROMPTS, GenerationFacts, Prompt, Receipt, TruncationFacts
from afina.server.settings import Settings
from afina.server.tenants import Reservation
from afina.store.api_keys import Key
from afina.store.versions import Name


class Text(NamedTuple):
    """A text or a pair of texts as the client sent it, or (with an empty text) the token ids of a prompt."""

    text: str
    pair: str | None = None
    tokens: Sequence[int] | None = None


@dataclass(frozen=True, eq=False)
class GenerationOptions:
    """A request's options for generated answers.

    Attributes:
        decoding: values for fields of `Decoding`. A field with the value None keeps the adapter's value.
        n: the number of answers to each text. `choice_seed` returns the random seed of each answer.
        logprobs: the number of most probable tokens to report at each step. None: no log-probabilities.
        make_guide: returns a new guide, which restricts the tokens of one answer to a grammar.
        guide: the digest of the grammar, for the receipt.
        schema: the JSON Schema against which complete answers are checked. None: they are not.
        echo: whether the log-probabilities of the prompt's tokens are reported too, if `logprobs` is not None.
        heard: called on the computing thread after each step, with the number of an answer and the answer's new tokens;
            must return at once. The answers to the first text have the numbers 0 to n - 1, and so on.
        longest: the largest number of new tokens if `decoding` has no limit. None: the limit of `decoding_of`.
    """

    decoding: Mapping[str, Any] = field(default_factory=dict)
    n: int = 1
    logprobs: int | None = None
    make_guide: Callable[[], Guide] | None = None
    guide: str | None = None
    schema: Mapping[str, Any] | None = None
    prompt_as: Prompt = "text"
    echo: bool = False
    heard: Callable[[int, NewTokens], None] | None = None
    longest: int | None = None

    @property
    def for_chat(self) -> bool:
        return self.prompt_as == "chat"

    @property
    def is_limited(self) -> bool:
        """Whether the request itself limits the new tokens of an answer."""
        return self.decoding.get("max_new_tokens") is not None


@dataclass(frozen=True, eq=False)
class TextRequest:
    """A client's request to a model: texts, and options for the answers.

    Attributes:
        generation: None: the request asks for a prediction such as a label.
        truncation: None: texts that are too long are truncated as in training.
        sticky: the end user's name or the request's id, whose hash decides whether the model's canary version answers.
            None: the canary version does not answer.
        traced: the request's span and times, passed to the batch listener.
        each_token: whether the request asks for the outputs of all tokens, and not for an answer.
    """

    key: Key
    model: str
    texts: Sequence[Text]
    generation: GenerationOptions | None = None
    truncation: Truncation | None = None
    sticky: str | None = None
    traced: Any = None
    each_token: bool = False


@dataclass(frozen=True, eq=False)
class ServedAnswer:
    """The answer to one text, and the number of the text's tokens that the model computed."""

    text: str
    prediction: Prediction
    objective: Objective
    receipt: Receipt
    tokens: int

    def scores(self, *, raw: bool = False) -> Sequence[LabelScore]:
        """Return the score of each label in the adapter's order: a probability, or with `raw` a logit."""
        written = ANSWER_FORMATS[self.objective.kind]
        return (written.raw_scores if raw else written.scores)(self.objective, self.prediction)

    def ranked(self, *, raw: bool = False, most: int | None = None) -> Sequence[dict[str, object]]:
        """Return labels and scores as JSON values, the highest first and at most `most`."""
        ordered = ANSWER_FORMATS[self.objective.kind].ranked(self.objective, self.prediction, raw=raw)
        return [one._asdict() for one in ordered[:most]]

    @property
    def words(self) -> Sequence[TaggedWord]:
        return ANSWER_FORMATS[self.objective.kind].words(self.objective, self.prediction)

    def tag_scores(self, *, raw: bool = False) -> list[list[float]]:
        """Return the probabilities, or with `raw` the logits, of all tags of each word or token (`each_token`)."""
        return ANSWER_FORMATS[self.objective.kind].tag_scores(self.objective, self.prediction, raw=raw)

    @property
    def label(self) -> str:
        """The predicted label. For multi-label tasks, the most probable label."""
        return ANSWER_FORMATS[self.objective.kind].label(self.objective, self.prediction)


@dataclass(eq=False)
class AcceptedRequest:
    """The tokenized texts of a request, and a lease that keeps the adapter in memory until `close`.

    Attributes:
        encoded: the token ids of each text, or the text itself for an adapter that does not read tokens.
        tokens: the number of tokens of each text, at least 1.
        decoding: the settings of the answers within the server's limits. None: the adapter does not generate text.
        reservation: the tokens that count for the key's rate limit. None: no tokens are counted yet.
        compared: whether the metrics count the answers by version, because the model has a canary version.
        counted: whether answers are counted to notice drift, because the version has an alias.
        shadowed: the model whose shadow version also computes the texts. None: not a request for production.
        futures: empty until the texts are in the queue.
    """

    request: TextRequest
    encoded: Sequence[EncodedText]
    tokens: Sequence[int]
    lease: Lease
    manifest: Manifest
    objective: Objective
    receipt: Receipt
    decoding: Decoding | None = None
    reservation: Reservation | None = None
    compared: bool = False
    counted: bool = False
    shadowed: Name | None = None
    futures: Sequence[Future[Any]] = ()

    @property
    def texts(self) -> Sequence[Text]:
        return self.request.texts

    @property
    def answers(self) -> int:
        return 1 if self.request.generation is None else self.request.generation.n

    @property
    def longest(self) -> int:
        return 0 if self.decoding is None else self.decoding.max_new_tokens or 0

    @property
    def needed(self) -> int:
        """The largest number of tokens that the request may need, with all new tokens of all answers."""
        return self._with_answers(self.longest)

    def _with_answers(self, longest: int) -> int:
        return sum(self.tokens) + len(self.texts) * self.answers * longest

    def fewest(self, rate: int | None) -> int:
        """Return the number of tokens to which a key with a rate can lower the tokens that the request may need.

        The default limit of a chat's answer fits the tokens that the key has left, and that of a completion the `rate`.
        """
        options = self.request.generation
        if rate is None or options is None or options.is_limited or self.decoding is None:
            return self.needed
        fewest = self._with_answers(max(1, self.decoding.min_new_tokens))
        return fewest if options.for_chat else max(fewest, min(self.needed, rate))

    def reserve(self, reservation: Reservation) -> None:
        """Take the tokens that were reserved for the request, and lower the limit of new tokens to them."""
        self.reservation = reservation
        options, facts = self.request.generation, self.receipt.generation
        if reservation.tokens >= self.needed or options is None or facts is None or self.decoding is None:
            return
        longest = (reservation.tokens - sum(self.tokens)) // (len(self.texts) * self.answers)
        self.decoding = self.decoding.changed(max_new_tokens=longest)
        self.request = replace(self.request, generation=replace(options, longest=longest))  # for the shadow version
        facts = facts.model_copy(update={"max_new_tokens": longest})
        self.receipt = self.receipt.model_copy(update={"generation": facts})
        reservation.give_back(reservation.tokens - self.needed)

    def close(self) -> None:
        """Cancel unfinished answers, and release the adapter and the tokens that were reserved. Call `close` once."""
        for future in self.futures:
            future.cancel()
        if self.reservation is not None and not self.futures:
            self.reservation.give_back()
        self.lease.release()

    def answer(self, index: int, outcome: Prediction | AfinaError) -> ServedAnswer:
        """Return the answer to text `index` of the request. Raises an `outcome` that is an error."""
        if isinstance(outcome, AfinaError):
            raise outcome
        text = self.texts[index].text
        return ServedAnswer(text, outcome, self.objective, self.receipt, outcome.tokens or self.tokens[index])


Check = Callable[[AcceptedRequest], object]
"""A function that raises an error if the options of a tokenized request do not suit the model or the texts."""


def no_check(accepted: AcceptedRequest) -> None:
    """Accept every request."""


def check_scored(accepted: AcceptedRequest) -> None:
    """Raise InvalidData if the answers of the adapter have no score for each label of a text, as entities have none."""
    if not ANSWER_FORMATS[accepted.objective.kind].has_scores:
        raise problems.NO_SCORES(found=accepted.objective.column, expected="label")


def check_pairs(texts: Sequence[Text], manifest: Manifest) -> None:
    """Raise InvalidData for pairs if the adapter was trained on single texts, and for single texts if on pairs."""
    takes = takes_pairs(manifest)
    if takes is False and any(text.pair is not None for text in texts):
        raise problems.TAKES_TEXTS(expected="texts")
    if takes and any(text.pair is None for text in texts):
        raise problems.TAKES_PAIRS(expected="pairs")


def check_texts(texts: Sequence[Text], settings: Settings) -> None:
    """Raise InvalidData if a request has no text or too many texts, or if a text is empty or too long."""
    if not 1 <= len(texts) <= settings.texts:
        raise problems.TEXTS_COUNT(found=len(texts), most=settings.texts)
    for number, text in enumerate(texts, start=1):
        if text.tokens is not None:
            continue
        name = "The text" if len(texts) == 1 else f"Text {number} of {len(texts)}"
        for part, where in ((text.text, name), (text.pair, f"The pair of {name.lower()}")):
            if part is None:
                continue
            if len(part) > settings.characters:
                raise problems.TEXT_TOO_LONG(where=where, characters=len(part), most=settings.characters)
            if is_blank(part):
                raise problems.TEXT_EMPTY(where=where)


def check_lengths(
    key: Key, resident: Resident, encoded: Sequence[EncodedText], tokens: Sequence[int], settings: Settings
) -> None:
    """Raise InvalidData if a text has more tokens than the key, or the server for a model without chunks, allows.

    For a text in windows, the server's limit is one of each window.
    """
    limits = [(key.text_tokens, "A text of this key may have", tokens)]
    if resident.reading is not None and not resident.generates and not resident.takes_chunks:
        whole = [max(len(part.tokens) for part in one.sequences) for one in encoded]
        limits.append((settings.whole_tokens, "This model computes a text whole, for which this server allows", whole))
    for most, why, counts in limits:
        for number, found in enumerate(counts, start=1):
            if most is not None and found > most:
                where = "The text" if len(tokens) == 1 else f"Text {number} of {len(tokens)}"
                raise problems.TEXT_TOKENS(_why=why, where=where, found=found, most=most)


def decoding_of(objective: Objective, options: GenerationOptions, settings: Settings, vocabulary: int) -> Decoding:
    """Return the decoding settings for an adapter's answers to a request.

    If the request has no limit of new tokens, the limit is the adapter's, which for chats is not the length of the
    longest training target, `GenerationOptions.longest` or the server's: the least of those.

    Raises InvalidData if an option is invalid or exceeds a limit of the server, or for a token id from `vocabulary` on.
    """
    trained = objective.generation()
    assert trained is not None
    asked = {name: value for name, value in options.decoding.items() if value is not None}
    limits = {"max_new_tokens": settings.max_new_tokens, "n": settings.choices, "logprobs": settings.logprobs}
    found = {"max_new_tokens": asked.get("max_new_tokens"), "n": options.n, "logprobs": options.logprobs}
    for name, most in limits.items():
        if (found[name] or 0) > most:
            raise problems.GENERATION_LIMIT(option=name, found=found[name], most=most)
    own = (objective.settings or {}).get("decoding", {}) if options.for_chat else dict(trained)
    defaults = own.get("max_new_tokens"), options.longest, settings.max_new_tokens
    most = asked.get("max_new_tokens", min(one for one in defaults if one is not None))
    try:
        made = trained.changed(**asked | {"max_new_tokens": most})
        made.check_vocabulary(vocabulary)
    except InvalidStudy as error:
        raise problems.DECODING_MALFORMED(_reason=error.sentence, **error.fields) from None
    return made


def most_tokens(texts: Sequence[Text], options: GenerationOptions | None, longest: int, settings: Settings) -> int:
    """Return an upper bound of the tokens that a request may need, without tokenizing the texts.

    A text for entities that is longer than the backbone reads at once (`longest` tokens) may need more tokens. The
    bound decides only how long a refused client is told to wait.
    """
    sizes = (
        sum(len(part.encode("utf-8", "replace")) for part in (one.text, one.pair or "")) + len(one.tokens or ())
        for one in texts
    )
    new = 0
    if options is not None:
        new = options.n * (options.decoding.get("max_new_tokens") or settings.max_new_tokens)
    return sum(min(size, longest) for size in sizes) + len(texts) * new


TOGETHER = 1 << 13
"""The largest number of characters of one client's texts that are tokenized at a time."""

CHARACTERS = 4
"""The number of characters that count as one token for an adapter that reads text and not tokens."""


class RequestEncoder:
    """Tokenizes the texts of requests. Thread-safe.

    For each client, at most `TOGETHER` characters of short texts, or one longer text, are tokenized at a time, so that
    a client with many long texts does not take the processor from the others.
    """

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self._engine, self._settings = engine, settings
        self._turns: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    def accepted(self, asked: TextRequest, lease: Lease, most: int | None) -> AcceptedRequest:
        """Check and tokenize the texts of a request for an adapter. The accepted request owns the lease.

        `most` is the number of tokens that the key may send now; None: no limit. Raises InvalidData for a text or an
        option that is invalid (`Core.accept`).
        """
        resident, key, generation, decoding = lease.resident(), asked.key, asked.generation, None
        manifest, objective = resident.manifest, resident.objective
        assert lease.version is not None
        if resident.generates != (generation is not None):
            instead = "a completion" if resident.generates else "its labels, its number or its entities"
            raise problems.OTHER_ANSWERS(found=objective.column, _instead=instead)
        vocabulary = self._engine.backbone.vocabulary
        if generation is not None:
            decoding = decoding_of(objective, generation, self._settings, vocabulary)  # or refused before reading
        if generation is None or generation.prompt_as == "text":
            check_pairs(asked.texts, manifest)
        encoded = self.encode(asked, resident, asked.texts, most)
        tokens = [tokens_of(one) for one in encoded]
        check_lengths(key, resident, encoded, tokens, self._settings)
        facts, cut = None, truncation_facts(resident, asked.truncation, encoded)
        if generation is not None and decoding is not None:
            if generation.for_chat and not generation.is_limited:
                room = max(1, self._engine.most_new_tokens(resident, max(tokens), decoding.beams))
                generation = replace(generation, longest=min(room, generation.longest or room))
                decoding = decoding_of(objective, generation, self._settings, vocabulary)
            given = generation.n, generation.guide, generation.prompt_as, self._engine.backbone.chat_template
            facts = GenerationFacts.of(decoding, *given)
            asked = replace(asked, generation=generation)
        receipt = Receipt(
            version=lease.version,
            adapter=lease.digest,
            base=self._engine.backbone.digest,
            dtype=self._engine.computes,
            precision=manifest.precision,
            generation=facts,
            truncation=cut,
            each_token=asked.each_token,
        )
        return AcceptedRequest(asked, encoded, tokens, lease, manifest, objective, receipt, decoding)

    def encode(
        self, asked: TextRequest, resident: Resident, texts: Sequence[Text], most: int | None
    ) -> list[EncodedText]:
        """Return the token ids of a request's texts. Raises AfinaError for a text that cannot be tokenized.

        If the texts have more than `most` tokens, the last texts are not tokenized: the caller refuses the request.
        """
        prompt_as: Prompt = "text" if asked.generation is None else asked.generation.prompt_as
        if prompt_as == "tokens":
            return [self._from_tokens(resident, one.tokens or ()) for one in texts]
        found, total = list[EncodedText](), 0
        for some in _pieces(texts):
            given = [one.text for one in some], [one.pair for one in some]
            with self._turns[asked.key.client]:
                encoded = self._engine.encode(
                    resident,
                    *given,
                    template=PROMPTS[prompt_as],
                    truncation=asked.truncation,
                    each_token=asked.each_token,
                )
            for one in encoded:
                if isinstance(one, AfinaError):
                    raise one
                found.append(one)
                total += tokens_of(one)
            if most is not None and total > most:
                break
        return found

    def _from_tokens(self, resident: Resident, tokens: Sequence[int]) -> EncodedText:
        """Return given token ids as an encoded text. Raises InvalidData for an id outside the vocabulary."""
        size, largest = self._engine.backbone.vocabulary, max(tokens)
        if largest >= size:
            raise problems.TOKEN_UNKNOWN(_last=size - 1, found=largest, vocabulary=size)
        most = resident.reading.max_length if resident.reading is not None else len(tokens)
        return EncodedText(np.array(tokens[:most], np.int32), len(tokens) > most, "")


def tokens_of(encoded: EncodedText) -> int:
    """Return the number of tokens of a text, at least 1; an estimate for an adapter without tokens (bag of words)."""
    if len(encoded.tokens):
        return len(encoded.tokens)
    return max(1, len(encoded.text + (encoded.pair or "")) // CHARACTERS)


def truncation_facts(
    resident: Resident, truncation: Truncation | None, encoded: Sequence[EncodedText]
) -> TruncationFacts | None:
    """Return the receipt's part about truncation; None: no text was truncated, or all as in training."""
    own = resident.reading
    if own is None or truncation is None or not any(one.truncated for one in encoded):
        return None
    side = None if truncation.side == own.backbone.tokenizer.truncation_side else truncation.side
    most = truncation.max_length
    facts = TruncationFacts(max_length=None if most is None or most >= own.max_length else most, side=side)
    return None if facts == TruncationFacts() else facts


def _pieces(texts: Sequence[Text]) -> Sequence[Sequence[Text]]:
    """Split texts into groups. A group has at most `TOGETHER` characters, or a single text that is longer."""
    pieces, size = list[list[Text]](), 0
    for text in texts:
        length = len(text.text) + len(text.pair or "")
        if not pieces or size + length > TOGETHER:
            pieces.append([])
            size = 0
        pieces[-1].append(text)
        size += length
    return pieces
