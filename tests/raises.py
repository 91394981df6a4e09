"""`raises`: pytest.raises for errors that a user can cause. Words may change: tests hold code and fields."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from afina.errors import AfinaError, Json

_FOLDERS = re.compile(r"(?<![\w.:/])/(?:[^/\s,]+/)+")


@contextmanager
def raises(expected: type[Any], /, *, code: str, **fields: Json) -> Iterator[pytest.ExceptionInfo[Any]]:
    """The block raises `expected` with that code and these among its fields.

    An absolute path in a field is compared by its last part.
    """
    with pytest.raises(expected) as caught:
        yield caught
    error = caught.value
    assert isinstance(error, AfinaError)
    assert error.code == code, error
    assert {name: _short(error.fields.get(name)) for name in fields} == fields


def _short(value: Json) -> Json:
    if isinstance(value, list):
        return [_short(each) for each in value]
    return _FOLDERS.sub("", value) if isinstance(value, str) else value
