"""Bodies: JSON of a stranger to a model's fields, or a refusal. Knows no protocol."""

from __future__ import annotations

import json
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from afina.server.http.refusal import Refusal

Given = TypeVar("Given", bound="Body")


class Body(BaseModel):
    """What a request has. Fields that are not known are left alone: protocols have more than is used here."""

    model_config = ConfigDict(strict=True, extra="ignore")


def parsed(content: bytes, kind: type[Given]) -> Given:
    """Raises Refusal: 400 for what is no JSON, 422 for what is no such object."""
    try:
        return kind.model_validate(decoded(content))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part)[:40] for part in first["loc"][:4]) or "body"
        raise Refusal(422, "invalid", f"{where}: {first['msg'][:200]}") from None


def decoded(content: bytes) -> Any:
    """JSON values: UTF-8, numbers that are some, nested no deeper than Python goes. Raises Refusal."""
    try:
        text = content.decode("utf-8")
        return json.loads(text, parse_constant=_no_number)
    except UnicodeDecodeError:
        raise Refusal(400, "invalid", "the body is not UTF-8.") from None
    except (ValueError, RecursionError):
        raise Refusal(400, "invalid", "the body is no JSON.") from None


def _no_number(text: str) -> NoReturn:
    raise ValueError(text)
