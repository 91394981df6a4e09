"""All errors of `afina.server` that a user can cause. Each error has an exception class, a code and a message."""

from __future__ import annotations

from functools import partial

from afina.errors import Busy, CorruptAdapter, InvalidData, InvalidName, InvalidStudy, NotFound, Problem, Refused

PROBE_DIFFERS = Problem(
    CorruptAdapter,
    "adapter.probe-differs",
    "{where}: its golden test fails: outputs differ by {difference:.1e}, more than {most}.",
)

_data_kind_mismatch = partial(Problem, InvalidData, "data.kind-mismatch")
NO_SCORES = _data_kind_mismatch(
    "the answers of this model (`{found}`) have no score for each label of a text. Ask by `/tasks`, `/bulk`, "
    "`/models/...`, `/pooling` or `/v2/models/...`."
)
NO_TAGS = _data_kind_mismatch(
    "this model answers with `{found}`, and gives no tag to each token. Ask by `/classify`, `/tasks` or `/bulk`."
)
OTHER_ANSWERS = _data_kind_mismatch("this model answers with `{found}`. Ask for {_instead}.")
KINDS_DIFFER = _data_kind_mismatch("the versions have different kinds of answers: a {expected} and a {found}.")

_data_pairs_mismatch = partial(Problem, InvalidData, "data.pairs-mismatch")
TAKES_TEXTS = _data_pairs_mismatch("This model takes single texts. Leave out `pair`.")
TAKES_PAIRS = _data_pairs_mismatch("This model takes pairs of texts. Give `pair` too.")

_option_invalid = partial(Problem, InvalidStudy, "option.invalid")
DRAIN_TOO_LONG = _option_invalid(
    "`drain` is {drain:g} seconds and `shutdown` is {shutdown:g}. `drain` must be at least 0 and less than "
    "`shutdown`: lower `drain`, or raise `shutdown`."
)
NOT_FINITE = _option_invalid("`{option}` is {_found}, not a finite number. Give a number of seconds.")

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

_receipt_mismatch = partial(Problem, Refused, "receipt.mismatch")
CHOICE_UNKNOWN = _receipt_mismatch(
    "choice {choice}: the receipt is of {choices} choices, numbered from 0. Give another with `choice`."
)
STOP_STRINGS_DIFFER = _receipt_mismatch(
    "stop strings: the receipt has {_said}, but those given have {_found}. Give each stop string of the request, "
    "in its order, with `stop`."
)
CHAT_TEMPLATE_DIFFERS = _receipt_mismatch(
    "the messages were rendered with a chat template of digest {_expected}, but the backbone's has {_found}. Give a "
    "backbone with the same chat template, with `backbone`."
)
DECODING_INVALID = _receipt_mismatch(
    "the receipt's settings of generation are invalid: {_errors}. Give an unchanged receipt."
)
VERSION_DIFFERS = _receipt_mismatch(
    "{version}: the {what} is {found}, but the receipt says {expected}. Give the store of the server that "
    "wrote the receipt, with `store`."
)
GRAMMAR_DIFFERS = _receipt_mismatch(
    "the receipt is of an answer whose grammar has the digest {_expected}, but the grammar given has {_found}. "
    "Give a JSON file with the fields of the request that gave the answer its form, such as "
    "`structured_outputs`, with `guide`."
)
NOT_GENERATED = _receipt_mismatch(
    "the receipt is of an answer that was not generated, so that `stop`, `choice` and `guide` have no effect. "
    "Leave them out."
)
NOT_READ_AT_ONCE = _receipt_mismatch(
    "the receipt is of the outputs of tokens, but the text is not one that an adapter for entities reads at once. Give "
    "the text of the request, and an unchanged receipt."
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
    "The request may need {tokens}{_more} tokens (those of its texts, and the most new tokens of every "
    "answer). Its key has a limit of {tokens_a_minute} tokens a minute. Send fewer or shorter texts, or ask "
    "for fewer new tokens.",
)

GENERATION_LIMIT = Problem(
    InvalidData, "request.generation-limit", "`{option}` is {found}. This server allows at most {most}."
)

GRAMMAR_INVALID = Problem(
    InvalidData,
    "request.grammar-invalid",
    "`guide`: {_problem}. Expected a JSON object with `structured_outputs`, `response_format`, `text`, or "
    '`tools` and `tool_choice`, as in the request, such as {{"structured_outputs": {{"choice": ["yes", "no"]}}}}.',
)

_request_malformed = partial(Problem, InvalidData, "request.malformed")
VALUE_OF_OTHER_TASK = _request_malformed("`parameters.{option}`: found {found}, expected {known} for this model.")
OPTION_OF_OTHER_TASK = _request_malformed(
    "`parameters.{option}`: the answers of this model are those of the task {found}, which has no such option. Leave "
    "it out."
)
DECODING_MALFORMED = _request_malformed("{_reason}")
INPUT_TENSOR_MALFORMED = _request_malformed("`inputs`: {_problem}.")
OUTPUT_TENSOR_UNKNOWN = _request_malformed("`outputs`: {output!r} is {_problem}.")
INPUT_OR_MESSAGES = _request_malformed("`input`: expected either `input` or `messages`, found {found}.")

_request_text_invalid = partial(Problem, InvalidData, "request.text-invalid")
TEXT_WOULD_BE_CUT = _request_text_invalid(
    "`inputs`: a text has more tokens than the model reads. Set `truncate` to true to cut such texts."
)
TEXT_TOO_LONG = _request_text_invalid("{where} has {characters} characters, expected at most {most}.")
TEXT_EMPTY = Problem(InvalidData, "request.text-empty", "{where} is empty.")

TEXT_TOKENS = Problem(
    InvalidData,
    "request.text-tokens",
    "{where} has {found} tokens. {_why} at most {most} tokens. Send a shorter text.",
)

_request_texts_count = partial(Problem, InvalidData, "request.texts-count")
NOT_A_PAIR = _request_texts_count("`inputs`: found {found} strings, expected a text or a pair.")
TEXTS_COUNT = _request_texts_count("Found {found} texts, expected 1 to {most}.")

TOKEN_UNKNOWN = Problem(
    InvalidData,
    "request.token-unknown",
    "token {found} is not in the model's vocabulary, whose ids are 0 to {_last}. Give ids of the model's own "
    "tokenizer.",
)

ANSWERS_NOT_COUNTED = Problem(
    InvalidData,
    "request.answers-not-counted",
    "{name}: its answers are of kind {kind}, which have neither labels nor a confidence, so drift is not measured. Ask "
    "for a model of another kind.",
)

DAYS_INVALID = Problem(
    InvalidData,
    "request.days-invalid",
    "`days` {found}: expected a whole number from 1 to {most}, as the server keeps the counts of {most} days.",
)

COUNTS_MALFORMED = Problem(
    InvalidData,
    "server.counts-malformed",
    "the counts that a server sent are malformed. Check that it is a server of this version of afina.",
)

ENDING = Problem(Busy, "server.ending", "the server is shutting down. Try another server, or try again later.")

HOST_MISSING = Problem(
    NotFound,
    "server.host-missing",
    "host {host}: {_reason}. Give an address of this machine with `host`.",
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

_server_store_silent = partial(Problem, Busy, "server.store-silent")
STORE_SILENT = _server_store_silent("the store does not respond. Try again later.")
KEYS_UNKNOWN = _server_store_silent(
    "the store has not answered for {seconds:g} seconds, so no key can be checked. Try again later."
)

KEY_MALFORMED = Problem(
    InvalidName, "key.invalid", "the key: found characters that no key has. Expected the output of `afina keys create`."
)

SERVER_ADDRESS_MALFORMED = Problem(
    InvalidName,
    "server.address-malformed",
    "{server}: not the address of a server. Expected an address such as http://127.0.0.1:8000.",
)

SERVER_REFUSES = Problem(Refused, "server.refused", "{server}: {reason} (status {status}).")

NO_ANSWER = Problem(
    NotFound, "server.unreachable", "{server}: no answer from a server of afina ({reason}). Check the address."
)
