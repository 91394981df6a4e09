"""Routes that create, list and revoke the API keys of all clients. They need a key with the scope `admin`.

Only the response that creates a key contains its secret. The store keeps a hash of the key, and request and response
bodies are never logged.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import Response
from fastapi.responses import JSONResponse
from pydantic import Field

from afina.errors import NotFound
from afina.server import routes
from afina.server.http.bodies import REMARK, Array, Body, Remark
from afina.server.http.calls import Called
from afina.server.http.refusals import Refusal
from afina.server.http.routing import ProtocolRouter
from afina.server.json_shapes import COUNT, NOTHING, TEXT, about, array, either, one_of, record
from afina.store.api_keys import SCOPES
from afina.store.versions import WORD

EXAMPLE = {"client": "acme", "scopes": ["predict"], "rate": 60000, "name": "the shop's server", "expires": "90d"}

EXPIRY = "^([0-9]{1,6}[dh]|[0-9]{4}.+)$"
"""Pattern of the expiry of a key: days, hours, or a date."""

_MAYBE = either(TEXT, NOTHING)
_KEY = {
    "id": about(TEXT, "id of the key, which is no secret"),
    "client": about(TEXT, "client of the key"),
    "name": about(_MAYBE, "name of the key"),
    "scopes": about(array(one_of(*SCOPES)), "what the key allows"),
    "rate": about(either(COUNT, NOTHING), "tokens a minute; null: the server's default"),
    "text_tokens": about(either(COUNT, NOTHING), "most tokens of a text; null: the server's limits only"),
    "created": about(TEXT, "time of creation, UTC"),
    "expires": about(_MAYBE, "time from which the key is not valid; null: never"),
    "revoked": about(_MAYBE, "time of the revocation; null: not revoked"),
    "who": about(_MAYBE, "who created the key; `key ID` for a key that was created over HTTP"),
    "why": about(_MAYBE, "reason for the key"),
    "problem": about(_MAYBE, "damage of the key in the store, so that it is not valid; null: none"),
}
KEY = record(**_KEY)
NEW_KEY = record(**_KEY, secret=about(TEXT, "the whole key. No other answer has it"))
KEYS = record(keys=about(array(KEY), "the keys, also revoked ones, in the order of creation"))

router = ProtocolRouter()


class NewKey(Body):
    """The API key to create."""

    client: Annotated[str, Field(json_schema_extra={"pattern": f"^{WORD}$"})] = Field(
        description="the client: the first part of a model's name"
    )
    scopes: Array[Literal["predict", "publish", "metrics", "admin"]] = Field(
        min_length=1, max_length=len(SCOPES), description="what the key allows; no scope includes another"
    )
    rate: int | None = Field(None, ge=1, lt=1 << 31, description="tokens a minute; default: the server's")
    text_tokens: int | None = Field(
        None, ge=1, lt=1 << 31, description="most tokens of a text or prompt; default: the server's limits only"
    )
    name: Remark | None = Field(None, description="a name for the key")
    expires: Annotated[str, Field(json_schema_extra={"pattern": EXPIRY})] | None = Field(
        None, max_length=40, description="90d, 12h or a date; default: never"
    )
    message: Remark | None = Field(None, description="reason, kept in the audit log for ever")


@router.answers(routes.KEYS, KEYS)
async def listed(call: Called) -> Response:
    """List the API keys of all clients, without their secrets."""
    found = await call.look(call.administration.keys)
    return JSONResponse({"keys": [one.as_json() for one in found]})


@router.answers(routes.NEW_KEY, NEW_KEY, NewKey, EXAMPLE)
async def created(call: Called) -> Response:
    """Create an API key of any client. Only this response contains the key's secret."""
    body = await call.body(NewKey)
    asked: dict[str, Any] = body.model_dump()
    made = await call.look(call.administration.create_key, call.key, **asked)
    return JSONResponse({**made.key.as_json(), "secret": made.secret})


@router.answers(routes.REVOKED_KEY, KEY, query={"message": REMARK})
async def revoked(call: Called, key: str) -> Response:
    """Revoke an API key of any client for ever. The query parameter `message` is the reason for the audit log."""
    given = call.request.query_params.getlist("message")
    message = given[0] if given else None
    if len(given) > 1 or len(message or "") > REMARK["maxLength"]:
        raise Refusal.at("message", f"give one message, of at most {REMARK['maxLength']} characters.")
    try:
        found = await call.look(call.administration.revoke_key, call.key, key, message)
    except NotFound as error:
        if error.code != "key.unknown":
            raise
        raise Refusal(404, "not_found", "no such key") from None
    return JSONResponse(found.as_json())
