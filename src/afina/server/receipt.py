"""Receipt: what answered. Enough to have it answer again (`afina replay`); it holds no text."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Self

from afina.errors import InvalidName
from afina.models.backbone_spec import FLOAT


@dataclass(frozen=True)
class Receipt:
    """version    `client/task@3`;  adapter, base  their digests;  dtype  what was computed in
    precision  what the base's frozen weights were held in; "float" is not written
    """

    version: str
    adapter: str
    base: str
    dtype: str
    precision: str = FLOAT

    def __str__(self) -> str:
        return json.dumps(self.as_json(), separators=(",", ":"))

    def as_json(self) -> dict[str, Any]:
        """JSON values."""
        return {key: value for key, value in asdict(self).items() if key != "precision" or value != FLOAT}

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises InvalidName."""
        try:
            given = json.loads(text)
            made = cls(**given)
        except (ValueError, TypeError, RecursionError):
            made = None
        if made is None or not all(isinstance(value, str) for value in asdict(made).values()):
            raise InvalidName(
                f"{text[:80]!r} is no receipt. Expected what an answer has in `Afina-Receipt`: an object of version, "
                "adapter, base and dtype.",
                code="receipt.malformed",
            )
        return made
