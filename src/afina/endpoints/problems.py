"""Every error of `afina.endpoints` that a user can cause, each with its exception class, code and message."""

from __future__ import annotations

from functools import partial

from afina.errors import Busy, InvalidData, InvalidStudy, NotFound, Problem, Refused

_address = partial(Problem, InvalidStudy, "endpoint.address-invalid")
ADDRESS_MALFORMED = _address(
    "`url` of an endpoint: {reason}. Expected an address such as https://api.openai.com/v1, without a user name, a "
    "password, a query or a fragment. Give the key with `key`, the name of an environment variable."
)
ADDRESS_UNENCRYPTED = _address(
    "`url` of an endpoint: http to {host} sends texts and the key unencrypted. Use https, or http to this machine or "
    "to a private IP address, for instance through an SSH tunnel."
)

_option = partial(Problem, InvalidStudy, "option.invalid")
SETTING_INVALID = _option("`{option}` of an endpoint: found {found!r}, expected {expected}.")
KEY_NO_NAME = _option(
    "`key` of an endpoint: expected the name of an environment variable, such as OPENAI_API_KEY. The key itself is "
    "never written into a setting or a file."
)
PRICES_MISSING = Problem(
    InvalidStudy,
    "endpoint.prices-missing",
    "`max_cost` of an endpoint: the cost is unknown without prices. Give `price_in` and `price_out`, the prices of a "
    "million tokens.",
)

_key_missing = partial(Problem, NotFound, "endpoint.key-missing")
KEY_UNSET = _key_missing("endpoint {host}: the environment variable {variable} is not set. Set {variable} to the key.")
KEY_UNNAMED = _key_missing(
    "endpoint {host}: no key is named. Give `key`, the name of the environment variable that has the key for {host}."
)
KEY_MALFORMED = Problem(
    InvalidStudy,
    "endpoint.key-malformed",
    "endpoint {host}: the key in the environment variable {variable} has characters other than visible ASCII. Set the "
    "variable again.",
)

EXTRA_MISSING = Problem(
    NotFound, "extra.missing", "an endpoint needs the package openai. Install it: pip install 'afina[api]'."
)

LABEL_WORDS_ALIKE = Problem(
    InvalidStudy,
    "words.ambiguous",
    "`words`: {word!r} stands for both {earlier!r} and {label!r}, so an answer could not be read. Give other words "
    "with `words`.",
)
LABEL_WORD_RESERVED = Problem(
    InvalidStudy,
    "words.reserved",
    "`words`: {word!r} of label {label!r} {reason}, so a list of labels could not be read. Give another word with "
    "`words`.",
)
ENTITIES_NOT_ASKED = Problem(
    InvalidStudy,
    "endpoint.kind-unsupported",
    "a task of kind {kind}: a model behind an API is not asked for entities, because its answer does not say where in "
    "the text an entity stands. Leave the endpoint out, and train an adapter.",
)
WORDS_NEEDLESS = Problem(
    InvalidStudy, "words.needless", "`words`: kind {kind} has no labels that words could stand for. Leave `words` out."
)
TEMPLATE_OF_TOKENIZER = Problem(
    InvalidStudy,
    "template.unsuitable",
    "`template` chat: an endpoint has no tokenizer whose chat template could be used. Give a template such as "
    "{expected!r}, or leave `template` out.",
)

_refused = partial(Problem, Refused, "endpoint.refused")
ENDPOINT_REFUSES = _refused(
    "endpoint {host}: status {status} ({reason}). {answered:,} of {texts:,} answers are kept in {path}. {_advice}"
)
_failing = partial(Problem, Busy, "endpoint.failing")
ENDPOINT_FAILS = _failing(
    "endpoint {host}: {reason}. {answered:,} of {texts:,} answers are kept in {path}. Run again later: only the "
    "missing answers are asked for."
)
_budget = partial(Problem, Refused, "endpoint.budget-spent")
BUDGET_SPENT = _budget(
    "endpoint {host}: the next request could pass `{option}` of {limit:,}. Spent so far, with earlier runs in this "
    "directory: {requests:,} requests{_cost}. "
    "{answered:,} of {texts:,} texts are answered, {missing:,} are missing; the answers are kept in {path}. Raise "
    "`{option}` and run again: only the missing answers are asked for."
)

KEPT_DAMAGED = Problem(
    InvalidData,
    "endpoint.answers-damaged",
    "{path}: the file of kept answers is damaged or is no such file ({reason}). Remove it to ask again.",
)
KEPT_BUSY = Problem(
    Busy,
    "endpoint.answers-busy",
    "{path}: another process has locked the file of kept answers for {seconds:g} seconds. Wait for this process, or "
    "end it, and run again.",
)
KEPT_FORMAT_UNKNOWN = Problem(
    InvalidData,
    "endpoint.answers-format-unknown",
    "{path}: kept answers of format {found}, this version of afina reads {expected}. Use the version of afina that "
    "wrote the file, or remove the file to ask again.",
)
