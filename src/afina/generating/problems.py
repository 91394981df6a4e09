"""All errors of `afina.generating` that a user can cause. Each error has an exception class, a code and a message."""

from __future__ import annotations

from afina.errors import Busy, InvalidData, InvalidStudy, NotFound, Problem

NO_TOKEN_ALLOWED = Problem(
    InvalidStudy,
    "decoding.no-token",
    "generation: no token is allowed after the answer so far. Change what restricts the answer: a grammar, "
    "`no_repeat_ngram` or `min_new_tokens`.",
)
LLGUIDANCE_MISSING = Problem(
    NotFound, "extra.missing", "answers that follow a grammar need {package}. Run: pip install 'afina[{extra}]'."
)
NOT_WITH_BEAMS = Problem(
    InvalidStudy,
    "option.inapplicable",
    "`{option}`: beam search gives no log-probabilities, and cannot be restricted by a grammar. Set `{option}` to 1.",
)

GRAMMAR_COSTLY = Problem(
    InvalidData, "request.grammar-costly", "the answer was ended: {_problem}. Give a simpler grammar."
)
GRAMMAR_INVALID = Problem(InvalidData, "request.grammar-invalid", "the grammar of the answer: {_problem}.")
STREAM_DIFFERS = Problem(
    InvalidData,
    "request.stream-differs",
    "the streamed text differs from the answer, because the tokenizer changed earlier text. Ask without `stream`.",
)
GRAMMAR_UNTRIED = Problem(Busy, "server.grammar-untried", "the grammar could not be tried in time. Try again later.")
SCHEMA_UNCHECKED = Problem(
    InvalidData, "request.schema-unchecked", "the answer cannot be checked against its JSON schema: {_problem}."
)
