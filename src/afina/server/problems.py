"""Every error of `afina.server` that a user can cause: class, code and sentence."""

from __future__ import annotations

from afina.errors import Busy, CorruptAdapter, InvalidData, InvalidName, InvalidStudy, NotFound, Problem, Refused

PROBE_DIFFERS = Problem(
    CorruptAdapter,
    "adapter.probe-differs",
    "{where}: its golden test fails: outputs differ by {difference:.1e}, more than {most}.",
)

NO_SCORES = Problem(
    InvalidData,
    "data.kind-mismatch",
    "this adapter answers with a text, which has no score for each label. Ask for the answer by the native protocol.",
)
KINDS_DIFFER = Problem(
    InvalidData, "data.kind-mismatch", "the versions have different kinds of answers: a {expected} and a {found}."
)
GIVES_TEXT = Problem(InvalidData, "data.kind-mismatch", "this model answers with a text. Ask for a completion.")
GIVES_NO_TEXT = Problem(
    InvalidData, "data.kind-mismatch", "this model gives no text. Ask for its labels or its number."
)

TAKES_TEXTS = Problem(InvalidData, "data.pairs-mismatch", "This model takes single texts. Leave out `pair`.")
TAKES_PAIRS = Problem(InvalidData, "data.pairs-mismatch", "This model takes pairs of texts. Give `pair` too.")

DRAIN_TOO_LONG = Problem(
    InvalidStudy,
    "option.invalid",
    "`drain` is {drain:g} seconds and `shutdown` is {shutdown:g}. `drain` must be at least 0 and less than "
    "`shutdown`: lower `drain`, or raise `shutdown`.",
)
NOT_FINITE = Problem(
    InvalidStudy, "option.invalid", "`{option}` is {_found}, not a finite number. Give a number of seconds."
)

NOT_A_CHAT = Problem(
    InvalidData,
    "receipt.chat-malformed",
    "the receipt is of a chat, but the text is neither the array `messages` of the request as JSON, nor an "
    'object with its `input` and `instructions`. Give the array, such as \'[{{"role": "user", "content": "Where '
    "is my parcel?\"}}]'.",
)

RECEIPT_MALFORMED = Problem(
    InvalidName,
    "receipt.malformed",
    "{given!r} is not a receipt. Expected the value of the header `Afina-Receipt` of an answer: a JSON object "
    "with version, adapter, base and dtype.",
)

CHOICE_UNKNOWN = Problem(
    Refused,
    "receipt.mismatch",
    "choice {choice}: the receipt is of {choices} choices, numbered from 0. Give another with `choice`.",
)
STOP_STRINGS_DIFFER = Problem(
    Refused,
    "receipt.mismatch",
    "stop strings: the receipt has {_said}, but those given have {_found}. Give each stop string of the request, "
    "in its order, with `stop`.",
)
DECODING_INVALID = Problem(
    Refused,
    "receipt.mismatch",
    "the receipt's settings of generation are invalid: {_errors}. Give an unchanged receipt.",
)
VERSION_DIFFERS = Problem(
    Refused,
    "receipt.mismatch",
    "{version}: the {what} is {found}, but the receipt says {expected}. Give the store of the server that "
    "wrote the receipt, with `store`.",
)
GRAMMAR_DIFFERS = Problem(
    Refused,
    "receipt.mismatch",
    "the receipt is of an answer whose grammar has the digest {_expected}, but the grammar given has {_found}. "
    "Give a JSON file with the fields of the request that gave the answer its form, such as "
    "`structured_outputs`, with `guide`.",
)
NOT_GENERATED = Problem(
    Refused,
    "receipt.mismatch",
    "the receipt is of an answer that was not generated, so that `stop`, `choice` and `guide` have no effect. "
    "Leave them out.",
)

NOT_TOKEN_IDS = Problem(
    InvalidData,
    "receipt.tokens-malformed",
    "the receipt is of a prompt of token ids, but the text is not an array of them as JSON. Give the array "
    "`prompt` of the request, such as '[15496, 995]'.",
)

BEYOND_RATE = Problem(
    InvalidData,
    "request.beyond-rate",
    "The request may need {tokens:,}{_more} tokens (those of its texts, and the most new tokens of every "
    "answer). Its key has a limit of {tokens_a_minute:,} tokens a minute. Send fewer or shorter texts, or ask "
    "for fewer new tokens.",
)

GENERATION_LIMIT = Problem(
    InvalidData, "request.generation-limit", "`{option}` is {found:,}. This server allows at most {most:,}."
)

GRAMMAR_INVALID = Problem(
    InvalidData,
    "request.grammar-invalid",
    "`guide`: {_problem}. Expected a JSON object with `structured_outputs`, `response_format`, `text`, or "
    '`tools` and `tool_choice`, as in the request, such as {{"structured_outputs": {{"choice": ["yes", "no"]}}}}.',
)

FUNCTION_OF_ANOTHER_KIND = Problem(
    InvalidData,
    "request.malformed",
    "`parameters.function_to_apply`: found {found}, expected {known} or none for this model.",
)
DECODING_MALFORMED = Problem(InvalidData, "request.malformed", "{_reason}")
INPUT_TENSOR_MALFORMED = Problem(InvalidData, "request.malformed", "`inputs`: {_problem}.")
OUTPUT_TENSOR_UNKNOWN = Problem(InvalidData, "request.malformed", "`outputs`: {output!r} is {_problem}.")
INPUT_OR_MESSAGES = Problem(
    InvalidData, "request.malformed", "`input`: expected either `input` or `messages`, found {found}."
)

TEXT_WOULD_BE_CUT = Problem(
    InvalidData,
    "request.text-invalid",
    "`inputs`: a text has more tokens than the model reads. Set `truncate` to true to cut such texts.",
)
TEXT_TOO_LONG = Problem(
    InvalidData, "request.text-invalid", "{where} has {characters:,} characters, expected at most {most:,}."
)
TEXT_EMPTY = Problem(InvalidData, "request.text-invalid", "{where} is empty.")

TEXT_TOKENS = Problem(
    InvalidData,
    "request.text-tokens",
    "{where} has {found:,} tokens. {_why} at most {most:,} tokens. Send a shorter text.",
)

NOT_A_PAIR = Problem(InvalidData, "request.texts-count", "`inputs`: found {found} strings, expected a text or a pair.")
TEXTS_COUNT = Problem(InvalidData, "request.texts-count", "Found {found:,} texts, expected 1 to {most:,}.")

TOKEN_UNKNOWN = Problem(
    InvalidData,
    "request.token-unknown",
    "token {found:,} is not in the model's vocabulary, whose ids are 0 to {_last:,}. Give ids of the model's own "
    "tokenizer.",
)

BATCH_FAILED = Problem(Busy, "server.batch-failed", "the golden test could not be computed. Try again later.")

COUNTS_MALFORMED = Problem(
    InvalidData,
    "server.counts-malformed",
    "the counts that a server sent are malformed. Check that it is a server of this version of afina.",
)

ENDING = Problem(Busy, "server.ending", "the server is shutting down. Try another server, or try again later.")

HOST_ELSEWHERE = Problem(
    NotFound,
    "server.host-missing",
    "host {host}: not an address of this machine. Give an address of this machine with `host`.",
)
HOST_UNKNOWN = Problem(
    NotFound, "server.host-missing", "host {host}: unknown address. Give an address of this machine with `host`."
)

PORT_FORBIDDEN = Problem(
    Refused,
    "server.port-forbidden",
    "port {port} on {host}: this user may not listen there. Give a port above 1023 with `port`.",
)

PORT_OCCUPIED = Problem(
    Busy,
    "server.port-occupied",
    "port {port} on {host}: another process listens there. Give another port with `port`, or end the process.",
)

PROBE_NOT_COMPUTED = Problem(
    Busy, "server.probe-not-computed", "{version}: its golden test could not be computed. Try again later."
)

STORE_SILENT = Problem(Busy, "server.store-silent", "the store does not respond. Try again later.")
KEYS_UNKNOWN = Problem(
    Busy,
    "server.store-silent",
    "the store has not answered for {seconds:g} seconds, so no key can be checked. Try again later.",
)
