"""Where something is computed."""

from __future__ import annotations

import threading

import pytest

from afina import device
from afina.errors import NotFound


def test_a_thread_that_opens_something_has_ended_when_it_is_open() -> None:
    opener = device.in_thread_that_ends(threading.current_thread)
    assert opener is not threading.current_thread()
    assert not opener.is_alive()


def test_an_error_in_the_thread_is_raised() -> None:
    def missing() -> None:
        raise NotFound("no such backbone", code="backbone.missing")

    with pytest.raises(NotFound, match="no such backbone"):
        device.in_thread_that_ends(missing)
