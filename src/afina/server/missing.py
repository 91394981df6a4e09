"""Missing: that there is no such model, or not for whoever asks. One word for both, so that nobody can tell."""

from __future__ import annotations

from afina.errors import NotFound

NO_MODEL = "no such model"


class Missing(NotFound):
    """A name that is not to be had. Other errors of that kind are of a store that does not answer."""

    code = "server.model-missing"

    def __init__(self) -> None:
        super().__init__(NO_MODEL)
