"""An extension of griffe that rewrites docstrings for mkdocstrings. `mkdocs.yml` names this file under `extensions`."""

from __future__ import annotations

from typing import Any

import griffe

from site_docstrings import as_google  # importable because `site_hooks` has imported the module before


class Columns(griffe.Extension):
    """An extension of griffe that rewrites each docstring of the package in Google's style."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of a module, class, function or attribute (a hook that griffe calls)."""
        if obj.docstring:
            obj.docstring.value = as_google(obj.docstring.value, "Attributes" if obj.is_class else "Args")
