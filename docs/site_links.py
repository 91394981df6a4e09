"""Rewrite links between pages of the site and to files of the repository. Does not import MkDocs."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Collection
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

OUTSIDE = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
"""Pages of the site whose source is outside `docs/`."""

_LINK = re.compile(r"(!?\[(?:[^\]\[]|\[[^\]]*\])*\])\(([^)\s#:]+)(#[^)\s]*)?\)")
_ATTRIBUTE = re.compile(r'\b(src|srcset|href)="([^":#]+)((?:#[^"]*)?)"')
_CODE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)

_PICTURE = re.compile(r"<picture>.*?(<img [^>]*)-light\.svg(\"[^>]*>)\n</picture>", re.DOTALL)


def both_themes(markdown: str) -> str:
    """Return a page whose pictures follow the site's switch between light and dark mode.

    GitHub needs `<picture>`, which follows only the operating system's setting. Therefore two images replace
    each `<picture>`. mkdocs-material shows an image with `#only-light` or `#only-dark` in its address only in that
    mode.
    """
    return _PICTURE.sub(r"\1-light.svg#only-light\2\n\1-dark.svg#only-dark\2", markdown)


def rewrite_links(markdown: str, page: str, known: Collection[str]) -> str:
    """Return a page whose relative links lead to pages of the site.

    A link to README.md, CHANGELOG.md or CONTRIBUTING.md becomes a link to the page of the site with this content. A
    link to `report.md` becomes a link to `report.html`. A link to any other file outside `docs/` becomes plain text.

    Args:
        page: Path of the page in the site, such as `reference/tasks.md`.
        known: Paths of all files of the site.

    Raises:
        ValueError: A link leads to a file that does not exist, or an HTML attribute to a file that is not in the site.
    """
    source = next((source for source, target in OUTSIDE.items() if target == page), f"docs/{page}")

    def target(link: str) -> str | None:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
        in_site = OUTSIDE.get(path, path.removeprefix("docs/").replace("-report/report.md", "-report/report.html"))
        if in_site in known:
            return posixpath.relpath(in_site, posixpath.dirname(page) or ".")
        if not (ROOT / path).exists():
            raise ValueError(f"{source}: link to {link}, which does not exist. Name an existing page or file.")
        return None

    def in_markdown(found: re.Match[str]) -> str:
        to = target(found[2])
        return found[1].lstrip("!")[1:-1] if to is None else f"{found[1]}({to}{found[3] or ''})"

    def in_html(found: re.Match[str]) -> str:
        to = target(found[2])
        if to is None:
            raise ValueError(f"{source}: {found[0]} leads out of the site. Name a file in docs/.")
        return f'{found[1]}="{to}{found[3]}"'

    def outside_code(text: str) -> str:
        return _ATTRIBUTE.sub(in_html, _LINK.sub(in_markdown, text))

    parts, end = [], 0
    for block in _CODE.finditer(markdown):
        parts += [outside_code(markdown[end : block.start()]), block[0]]
        end = block.end()
    return "".join([*parts, outside_code(markdown[end:])])
