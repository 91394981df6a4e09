"""Hooks of MkDocs: add pages from files outside `docs/` and pages generated from the code, and rewrite links.

`mkdocs.yml` names this file under `hooks`.
"""

from __future__ import annotations

from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

from site_links import OUTSIDE, ROOT, both_themes, rewrite_links
from site_pages import GENERATED

WIDE = "---\nhide: [navigation]\n---\n\n"
"""Front matter that hides the navigation of the first page, which would have only one entry."""


def on_files(files: Files, config: Any) -> Files:
    """Add the pages whose source is not in `docs/` to MkDocs' files."""
    for source, page in OUTSIDE.items():
        content = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=(WIDE if page == "index.md" else "") + content))
    for page, made in GENERATED.items():
        files.append(File.generated(config, page, content=made()))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Return a page with its links and pictures rewritten for the site. Raises PluginError for a broken link."""
    markdown = both_themes(markdown)
    try:
        return rewrite_links(markdown, page.file.src_uri, {file.src_uri for file in files})
    except ValueError as error:
        raise PluginError(str(error)) from None
