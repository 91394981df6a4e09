"""All errors of `afina.engine` that a user can cause. Each error has an exception class, a code and a message."""

from __future__ import annotations

from afina.errors import Busy, CorruptAdapter, InvalidData, InvalidStudy, Problem, Refused

ADAPTER_CHANGED = Problem(
    CorruptAdapter,
    "adapter.changed",
    "{where}: the {what} have digest {found:.19}, the manifest says {stated:.19}. The adapter was changed: read it "
    "again, or copy it again.",
)
LOGITS_NOT_FINITE = Problem(
    CorruptAdapter, "adapter.values-invalid", "{where}: logits are NaN or infinite. Train the adapter again."
)

ADAPTER_EXCHANGED = Problem(
    Busy, "engine.adapter-exchanged", "{where}: the adapter was replaced while it was read. Try again."
)
CLOSED = Problem(Refused, "engine.closed", "the engine is closed. Open another engine.")
NO_ROOM_FOR_HOST = Problem(
    InvalidStudy,
    "engine.host-limit",
    "backbone {backbone} is in memory with {_there}. To open it in {precision} too takes {bytes:,} bytes, but the "
    "memory limit leaves {limit:,}. Raise `limit`, or use an adapter that was trained on {_open}.",
)
LOAD_TIMEOUT = Problem(
    Busy, "engine.load-timeout", "{_named}: the adapter was not loaded within {seconds:g} s. Try again."
)
PINNED_LIMIT = Problem(
    Refused,
    "engine.pinned-limit",
    "{_named}: pinned adapters would take {bytes:,} bytes, the limit is {limit:,}. Unpin another adapter, or raise "
    "`limit`.",
)

NO_TOKEN_OUTPUTS = Problem(
    InvalidData,
    "data.kind-mismatch",
    "this model answers with {kind}, and gives no tags to tokens. Ask for its answers instead.",
)
SEVERAL_WINDOWS = Problem(
    InvalidData,
    "request.several-windows",
    "the text has more tokens than the model reads at once ({most}). The outputs of tokens would be those of "
    "{windows} windows. Send a shorter text, or ask for the entities.",
)

ANSWER_BEYOND_MEMORY = Problem(
    InvalidData,
    "generation.beyond-memory",
    "`{option}`: the answer may need {bytes} bytes of keys and values, but at most {limit} bytes are available. "
    "Ask for fewer new tokens, give a shorter text, or raise the memory limit.",
)
GENERATION_FAILED = Problem(
    Busy, "generation.failed", "{where}: the answer could not be generated ({_error}). Try again."
)
PROMPT_TOO_LONG = Problem(
    InvalidData,
    "generation.prompt-too-long",
    "the text has {tokens} tokens, which leaves no position for an answer. Give a shorter text.",
)

NO_STORE = Problem(
    InvalidStudy,
    "option.missing",
    "the engine has no `store` to find a version in. Give the engine a `store`, or name a directory.",
)
READS_NO_TOKENS = Problem(
    InvalidData,
    "request.malformed",
    "this model reads no tokens, so that a text cannot be truncated to a number of tokens. Send the text without this "
    "option.",
)
OTHER_KIND_OF_ANSWER = Problem(
    InvalidStudy,
    "serving.kind-mismatch",
    "{where}: {_asked} was asked for, but the adapter answers {_answers}. Ask another adapter, or ask this adapter for "
    "its kind of answer.",
)
