"""Independent random streams from one seed.

Initialisation, order and dropout each draw from a stream of their own, so that a change in one
(another method, a resumed run) leaves the others as they were. Knows no generator.
"""

from __future__ import annotations

import hashlib


def derive(seed: int, purpose: str, *index: int) -> int:
    """A 63-bit seed for `purpose` at `index`, fixed for ever by its arguments."""
    text = ":".join([str(seed), purpose, *map(str, index)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1
