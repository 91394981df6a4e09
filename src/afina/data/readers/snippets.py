"""Tasks in the `snippets` asset: texts with the mean sentiment rating (-4..4) of 20 people.

C.J. Hutto and E. Gilbert, VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social
Media Text, ICWSM 2014; the files of vaderSentiment 3.3.2 (MIT). Knows their form; not how they arrive.
"""

from __future__ import annotations

from collections.abc import Sequence

from afina import assets
from afina.data.readers.rows import Rows, divide
from afina.data.readers.targets import Read, splits

NEUTRAL = 0.5
"""Texts rated closer to zero than this are left out: people did not agree on a sign."""

DOMAINS = {
    "movies": "movieReviewSnippets",
    "tweets": "tweets",
    "products": "amazonReviewSnippets",
    "editorials": "nytEditorialSnippets",
}


def rows(domain: str) -> Rows:
    """All clearly rated snippets of a domain (a key of DOMAINS), as `negative` and `positive`, in file order."""
    path = assets.fetch("snippets") / f"{DOMAINS[domain]}_GroundTruth.txt"
    texts, labels, places = [], [], []
    # Not splitlines, which would split at U+0085 and others inside a text.
    for number, line in enumerate(path.read_text(encoding="utf-8").removesuffix("\n").split("\n"), start=1):
        _, rating, text = line.split("\t", 2)
        if abs(float(rating)) >= NEUTRAL:
            texts.append(text.strip())
            labels.append("positive" if float(rating) > 0 else "negative")
            places.append(number)
    return Rows(texts, None, labels, lambda i: f"{path.name}, line {places[i]}")


def load(domain: str, labels: Sequence[str] | None = None) -> Read:
    """Label names, training split and evaluation split of a domain; 80/20 by a hash of the normalised text."""
    train, evaluation = divide(rows(domain))
    return splits(train, evaluation, labels)
