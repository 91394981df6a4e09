"""Guided decoding with llguidance: answers that follow a choice of texts, a regular expression or a JSON Schema.

A grammar comes from a client, so its cost is limited in four ways:

- The size of the grammar is limited.
- The grammar is first compiled in a separate process, which the system ends after a second of processor time.
- A random answer is generated with the model's vocabulary (the rehearsal), which must stay within llguidance's limits.
- The processor time of each step of an answer is limited.

The module imports no code of servers and models.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from afina import digest, meter
from afina.errors import InvalidData
from afina.generating import problems
from afina.generating.closed_schemas import closed

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

    from afina.data.tokenize import Tokenizer

MOST_CHOICES, MOST_CHARACTERS, MOST_PATTERN = 256, 16_384, 1024
"""The largest number of choices, of characters of all choices together or of a schema, and of a regular expression."""

MOST_BYTES = 8192
"""The largest number of bytes of one choice. llguidance has a state for each byte."""

DEEPEST = 64
"""The largest number of nested levels in a schema."""

_COMPARED = frozenset({"const", "enum", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"})
"""The keywords with whose numbers a number of an answer is compared. llguidance reads these numbers as doubles."""

_NAMING = frozenset({"properties", "patternProperties", "$defs", "definitions", "default"})
"""The keywords whose values have names that are not keywords."""

TRIAL_SECONDS, TRIAL_BYTES, TRIAL_WAIT = 1, 1 << 30, 20.0
"""The limits on compiling a grammar in a separate process: processor seconds, bytes of address space, and seconds."""

STEP_SECONDS = 0.1
"""The processor seconds that a grammar may take for one step of an answer. A slower answer ends with an error."""

REHEARSED, REHEARSED_SECONDS = 128, 0.5
"""The length of the random answer in the rehearsal: the largest number of tokens, and of processor seconds."""

_REMEMBERED = 1024
"""The number of grammars of a client that are remembered as being within the limits."""

_LIMITS: Mapping[str, Any] = {
    "initial_lexer_fuel": 200_000,
    "step_lexer_fuel": 50_000,
    "step_max_items": 20_000,
    "max_lexer_states": 10_000,
    "max_grammar_size": 50_000,
    "precompute_large_lexemes": False,
    "verbose_errors": False,
}
"""The limits that llguidance itself enforces on memory, and on most of the processor time."""

_PLACE = re.compile(r"^at \d+\(\d+\): ")
"""Pattern of the line and column that an error message of llguidance begins with."""

_JSON = {"whitespace_pattern": " ?", "lenient": False, "coerce_one_of": False}
"""llguidance's settings for JSON Schemas. A model that may indent JSON may also write whitespace without end."""


@dataclass(frozen=True)
class Grammar:
    """A grammar that defines which texts an answer may be.

    `source`: The grammar in llguidance's syntax. `schema`: The JSON Schema that the grammar is made of, or None.
    """

    source: str
    schema: Mapping[str, Any] | None = field(default=None, compare=False)

    @property
    def digest(self) -> str:
        """The digest of the grammar, for receipts."""
        return digest.of_strings([self.source])

    @classmethod
    def of_choices(cls, choices: Sequence[str]) -> Grammar:
        """Return the grammar that allows each of several texts. Raises InvalidData if the texts are not suitable."""
        if not 1 <= len(choices) <= MOST_CHOICES or sum(map(len, choices)) > MOST_CHARACTERS:
            raise _invalid(
                f"{len(choices)} choices with {sum(map(len, choices))} characters, expected 1 to {MOST_CHOICES} "
                f"choices with at most {MOST_CHARACTERS} characters together"
            )
        if any(one != one.strip() or not one for one in choices):
            raise _invalid("a choice is empty, or begins or ends with whitespace, which is removed from an answer")
        if (longest := max(len(one.encode()) for one in choices)) > MOST_BYTES:
            raise _invalid(f"a choice of {longest} bytes, expected at most {MOST_BYTES}")
        return cls._after_space(" | ".join(json.dumps(one, ensure_ascii=False) for one in choices))

    @classmethod
    def of_regex(cls, pattern: str) -> Grammar:
        """Return the grammar of a regular expression in the syntax of Rust's `regex`. Raises InvalidData."""
        from llguidance import regex_to_lark

        if not 1 <= len(pattern) <= MOST_PATTERN:
            raise _invalid(f"a regular expression of {len(pattern)} characters, expected 1 to {MOST_PATTERN}")
        escaped = regex_to_lark(pattern).replace("\n", r"\n")
        return cls._after_space(f"/{escaped}/")

    @classmethod
    def of_schema(cls, schema: Mapping[str, Any]) -> Grammar:
        """Return the grammar of the JSON texts that follow a closed JSON Schema. Raises InvalidData."""
        if _depth(schema) > DEEPEST:
            raise _invalid(f"a schema with more than {DEEPEST} levels")
        if (length := len(json.dumps(schema))) > MOST_CHARACTERS:
            raise _invalid(f"a schema of {length} characters, expected at most {MOST_CHARACTERS}")
        made = closed(schema)
        if (rounded := next(_rounded(made), None)) is not None:
            raise _invalid(
                f"the integer {str(rounded)[:40]} of the schema would be rounded to the nearest double. Give integers "
                f"between -{2**53} and {2**53}, or texts in quotation marks with the type string"
            )
        source = cls._after_space(f"%json {json.dumps({**made, 'x-guidance': _JSON})}").source
        return cls(source, schema)

    @classmethod
    def _after_space(cls, body: str) -> Grammar:
        """Return a grammar that allows a space before the text, because answers to many prompts begin with a space."""
        from llguidance import LLMatcher

        return cls(LLMatcher.grammar_from_lark(f'start: " "? body\nbody: {body}'))


def require() -> None:
    """Raise NotFound if llguidance or jsonschema is not installed."""
    try:
        import jsonschema  # noqa: F401
        import llguidance  # noqa: F401
    except ImportError as error:
        raise problems.LLGUIDANCE_MISSING(extra="guided", package=error.name) from None


class TokenGuide:
    """A guide, which knows the tokens that a grammar allows next in one answer. Not thread-safe."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher

    @property
    def finished(self) -> bool:
        return bool(self._matcher.is_stopped())

    def mask(self, logits: np.ndarray) -> None:
        """Set the logits of the tokens that the grammar forbids next to -inf, in place.

        The logits are float [V], where V may be larger than the tokenizer's vocabulary.

        Raises InvalidData if the grammar took too long for this step, or allows no token.
        """
        began = meter.processor_seconds()
        words = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        seconds = meter.processor_seconds() - began
        if self._matcher.is_error():
            raise _costly("its grammar allows no further token, or exceeds a limit of llguidance")
        if seconds > STEP_SECONDS:
            raise _costly(f"a step takes more than {STEP_SECONDS} seconds")
        allowed = np.unpackbits(words, bitorder="little")[: len(logits)].astype(bool)
        logits[: len(allowed)][~allowed] = -np.inf
        logits[len(allowed) :] = -np.inf

    def accept(self, token: int) -> None:
        """Append a token to the answer. Raises InvalidData if the grammar does not allow the token."""
        if not self._matcher.consume_token(token):
            raise _costly("the next token is not allowed")


class GuideMaker:
    """A class that makes guides for a tokenizer's vocabulary. Thread-safe.

    It compiles one grammar of a client at a time.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._opened: LLTokenizer | None = None
        self._ascii = np.zeros(0, bool)
        """For each token id, whether the token's text is ASCII."""
        self._opening = threading.Lock()
        self._turns: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._tried: defaultdict[str, OrderedDict[str, None]] = defaultdict(OrderedDict)
        """The digests of grammars within the limits, by client, so that times do not tell what others have asked."""

    def prepare(self, client: str, grammar: Grammar) -> Callable[[], TokenGuide]:
        """Compile a grammar, and return a function that makes a new guide for an answer.

        Raises InvalidData for a grammar that is invalid, not supported or too costly, and Busy if the machine was too
        busy to compile the grammar in a separate process.
        """
        from llguidance import LLMatcher, LLParserLimits

        with self._turns[client]:
            of_client = self._tried[client]
            tried = grammar.digest in of_client
            if not tried and (problem := _trial(grammar)) is not None:
                raise _invalid(problem)
            vocabulary, limits = self._vocabulary(), LLParserLimits(**_LIMITS)
            made = LLMatcher(vocabulary, grammar.source, log_level=0, limits=limits)
            if made.is_error():
                raise _invalid(_in_short(made.get_error()))
            if not tried:  # not by a copy, because copies share what they may spend
                self._rehearse(LLMatcher(vocabulary, grammar.source, log_level=0, limits=limits))
                of_client[grammar.digest] = None
                if len(of_client) > _REMEMBERED:
                    of_client.popitem(last=False)
        return lambda: TokenGuide(made.deep_copy())

    def _rehearse(self, matcher: LLMatcher) -> None:
        """Generate the first tokens of a random answer, and raise InvalidData if they exceed a limit of llguidance.

        The random answer has ASCII tokens where the grammar allows them. A model seldom writes in many alphabets, so a
        grammar that is too costly only for other alphabets is still useful.
        """
        draw, end, number = np.random.default_rng(0), self._tokenizer.eos_token_id, 0
        until = meter.processor_seconds() + REHEARSED_SECONDS
        while number < REHEARSED and meter.processor_seconds() < until:
            words = np.frombuffer(matcher.compute_bitmask(), np.uint8)
            allowed = np.flatnonzero(np.unpackbits(words, bitorder="little"))
            inner = allowed[allowed != end]
            if matcher.is_stopped() or not len(inner):
                break
            plain = inner[self._ascii[inner]]
            matcher.consume_token(int(draw.choice(plain if len(plain) else inner)))
            number += 1
        if matcher.is_error():
            why = _in_short(matcher.get_error())
            raise _invalid(f"after {number} tokens, an answer exceeds a limit: {why}. Give a simpler grammar")

    def _vocabulary(self) -> LLTokenizer:
        from llguidance import LLTokenizer

        with self._opening:
            if self._opened is None:
                inner = self._tokenizer.backend_tokenizer.to_str()  # takes about a second for a large vocabulary
                plain = json.dumps({**json.loads(inner), "truncation": None, "padding": None})
                self._opened = opened = LLTokenizer(plain, eos_token=self._tokenizer.eos_token_id)
                tokens = range(opened.vocab_size + 32)  # as many as a mask has, or more
                self._ascii = np.array(
                    [one < opened.vocab_size and opened.decode_str([one]).isascii() for one in tokens]
                )
            return self._opened


def _trial(grammar: Grammar) -> str | None:
    """Compile a grammar in a separate process, and return the problem with the grammar, or None. Raises Busy."""
    command = [sys.executable, "-P", "-m", __name__]
    try:
        done = subprocess.run(
            command,
            input=grammar.source.encode(),
            capture_output=True,
            timeout=TRIAL_WAIT,
            env={**os.environ, "RUST_BACKTRACE": "0"},
        )
    except subprocess.TimeoutExpired:
        raise problems.GRAMMAR_UNTRIED() from None
    if done.returncode:
        return f"it takes more than {TRIAL_SECONDS} second or {TRIAL_BYTES >> 20} MiB to compile. Give a simpler one"
    problem: str | None = json.loads(done.stdout)
    return None if problem is None else _in_short(problem)


def _compile_within_limits() -> None:
    """Compile the grammar on standard input in the separate process, and write the problem (or null) as JSON."""
    import resource

    from llguidance import LLMatcher, LLParserLimits, LLTokenizer

    spent = int(meter.processor_seconds())
    resource.setrlimit(resource.RLIMIT_CPU, (spent + TRIAL_SECONDS, spent + TRIAL_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (TRIAL_BYTES, TRIAL_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    matcher = LLMatcher(LLTokenizer("byte"), sys.stdin.read(), log_level=0, limits=LLParserLimits(**_LIMITS))
    problem: str | None = matcher.get_error() or None
    if problem is None:
        began = meter.processor_seconds()
        matcher.compute_bitmask()
        if matcher.is_error():
            problem = "it allows no text"
        elif meter.processor_seconds() - began > STEP_SECONDS:
            problem = f"a step takes more than {STEP_SECONDS} seconds. Give a simpler one"
    sys.stdout.write(json.dumps(problem))


def _depth(schema: Any) -> int:
    """Return the number of nested levels of a JSON value, or a number above `DEEPEST` if there are more levels."""
    level, found = [schema], 0
    while level and found <= DEEPEST:
        found += 1
        inner = [one for one in level if isinstance(one, Mapping | list)]
        level = [each for one in inner for each in (one.values() if isinstance(one, Mapping) else one)]
    return found


def _rounded(schema: Any, compared: bool = False) -> Iterator[int]:
    """Yield the integers in a schema with which numbers are compared, and that a double cannot hold."""
    if isinstance(schema, Mapping):
        for name, one in schema.items():
            if compared or name not in _NAMING or not isinstance(one, Mapping):
                yield from _rounded(one, compared or name in _COMPARED)
            elif name != "default":
                yield from _rounded([*one.values()])
    elif isinstance(schema, list):
        for one in schema:
            yield from _rounded(one, compared)
    elif compared and isinstance(schema, int) and (abs(schema) > sys.float_info.max or schema != float(schema)):
        yield schema


def _in_short(message: str) -> str:
    """Return the first line and the reasons of an error message of llguidance, without line and column."""
    first, *lines = message.splitlines()
    reasons = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return " ".join([_PLACE.sub("", first), *reasons])[:300]


def _invalid(problem: str) -> InvalidData:
    return problems.GRAMMAR_INVALID(_problem=problem)


def _costly(problem: str) -> InvalidData:
    return problems.GRAMMAR_COSTLY(_problem=problem)


if __name__ == "__main__":
    _compile_within_limits()
