"""The steps of what changes a store, by name: between any two, a process may end, and nothing is lost.

`reached` does nothing. Tests put a function in its place that ends the process there.
"""

from __future__ import annotations

STEPS = (
    *("init: in the transaction", "init: committed"),
    *("publish: files made", "publish: leased", "publish: body put", "publish: put", "publish: in the transaction"),
    *("publish: committed",),
    *("alias: in the transaction", "alias: committed"),
    *("delete: in the transaction", "delete: committed"),
    *("gc: in the transaction", "gc: condemned", "gc: one removed", "gc: removed", "gc: committed"),
    *("erase: in the transaction", "erase: forgotten", "erase: removed", "erase: committed", "erase: scrubbed"),
    *("erase: ended",),
)
"""All of them, in their order."""


def reached(step: str) -> None:
    """Called at each step."""
