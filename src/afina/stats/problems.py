"""The errors of `afina.stats`, each with its exception class, code and message."""

from __future__ import annotations

from afina.errors import NotFound, Problem

CLEANLAB_MISSING = Problem(
    NotFound, "extra.missing", "doubtful labels need the package cleanlab. Install it: pip install 'afina[doubts]'."
)
