"""`GET /info`, as text-embeddings-inference and text-generation-inference describe a server, as far as it is true here.

Fields that describe one model, such as TEI's `model_type`, are left out: a server has many. Knows no route.
"""

from __future__ import annotations

from typing import Any

from afina import __version__
from afina.server.core import Core
from afina.server.http.schemas import COUNT, TEXT, YES_OR_NO, Shape, about, one_of, record
from afina.server.protocols.openai_bodies import STOPS

ANSWER: Shape = record(
    {
        "model_id": about(TEXT, "the backbone's address; of a directory, its name only"),
        "model_sha": about(TEXT, "digest of the backbone"),
        "model_dtype": about(TEXT, "dtype of the computation"),
        "router": about(one_of("afina"), "always afina"),
        "version": about(TEXT, "version of afina"),
        "max_concurrent_requests": about(COUNT, "open requests of a client"),
        "max_client_batch_size": about(COUNT, "texts of a request"),
        "max_batch_tokens": about(COUNT, "tokens of a batch"),
        "max_input_length": about(COUNT, "tokens that the backbone reads; an adapter may read fewer"),
        "max_input_tokens": about(COUNT, "same number as `max_input_length`, as TGI calls it"),
        "max_total_tokens": about(COUNT, "tokens of a prompt and its answer together"),
        "max_best_of": about(COUNT, "generated answers to a prompt"),
        "max_stop_sequences": about(COUNT, "stop strings of a request"),
        "auto_truncate": about(YES_OR_NO, "always true: texts are cut to the length that the adapter reads"),
    }
)


def answered(core: Core) -> dict[str, Any]:
    """Return the response."""
    backbone, settings = core.engine.backbone, core.settings
    length = backbone.longest
    return {
        "model_id": backbone.shown,
        "model_sha": backbone.digest,
        "model_dtype": core.dtype,
        "router": "afina",
        "version": __version__,
        "max_concurrent_requests": settings.at_once,
        "max_client_batch_size": settings.texts,
        "max_batch_tokens": settings.batch_tokens,
        "max_input_length": length,
        "max_input_tokens": length,
        "max_total_tokens": length,
        "max_best_of": settings.choices,
        "max_stop_sequences": STOPS,
        "auto_truncate": True,
    }
