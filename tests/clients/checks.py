"""What the scripts of this directory share. They run in the environment of their client, without afina."""

import asyncio
import inspect
import json
import os
import traceback
from collections.abc import Callable
from typing import Any, Literal

URL = os.environ["AFINA_URL"]
KEY = os.environ["AFINA_KEY"]
ANSWERS: dict[str, Any] = json.loads(os.environ["AFINA_ANSWERS"])
"""What the adapters answer in afina itself: see `answers` in run.py."""

REVIEW = {
    "type": "object",
    "properties": {"mood": {"enum": ["angry", "calm"]}, "stars": {"enum": [1, 2, 3]}},
    "required": ["mood", "stars"],
    "additionalProperties": False,
}
"""A schema whose objects are short, whatever a model writes."""

_CHECKS: dict[str, Callable[[], Any]] = {}
_SAVED: list[dict[str, Any]] = []


def save(mood: Literal["angry", "calm"], stars: Literal[1, 2, 3]) -> str:
    """Save a review.

    Args:
        mood: the mood of the review
        stars: the number of stars
    """
    _SAVED.append({"mood": mood, "stars": stars})
    return "saved"


def check(function: Callable[[], Any]) -> Callable[[], Any]:
    """Add a check. Its docstring says what works if it returns."""
    _CHECKS[(function.__doc__ or function.__name__).strip()] = function
    return function


def check_agent(function: Callable[[str], Any]) -> None:
    """Add checks of an agent that may call `save`: with a model that was trained to call, and with one that was not.

    `function` takes the name of a model, and returns what the agent says in the end.
    """

    def said(model: str) -> str:
        _SAVED.clear()
        found = function(model)
        return asyncio.run(found) if inspect.iscoroutine(found) else found

    def calls() -> None:
        found = said("acme/caller")
        same((found, _SAVED), (ANSWERS["caller"], [ANSWERS["called"]]))

    def talks() -> None:
        found = said("acme/talk")
        assert found and not _SAVED, (found, _SAVED)

    what = (function.__doc__ or "").strip()
    _CHECKS[f"{what}, a model that was trained to call"] = calls
    _CHECKS[f"{what}, a model that was not"] = talks


def same(found: Any, expected: Any) -> None:
    """Raise AssertionError with both values if they differ."""
    assert found == expected, f"found {found!r}, expected {expected!r}"


def review(found: Any) -> None:
    """Raise AssertionError if an object is not of the schema REVIEW."""
    assert isinstance(found, dict) and sorted(found) == ["mood", "stars"], found
    assert found["mood"] in ("angry", "calm") and found["stars"] in (1, 2, 3), found


def main() -> None:
    """Call each check, and print a line of JSON for it."""
    for what, function in _CHECKS.items():
        try:
            if inspect.iscoroutinefunction(function):
                asyncio.run(function())
            else:
                function()
            problem = None
        except Exception as error:  # noqa: BLE001 - a client's own errors are of any type
            if os.environ.get("AFINA_TRACE"):
                traceback.print_exc()
            problem = f"{type(error).__name__}: {error}"[:600]
        print(f"\n{json.dumps({'check': what, 'problem': problem})}", flush=True)  # clients print parts of lines
