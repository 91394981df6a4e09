"""The definitions of terms at the end of `report.html`, and the links from the report's text to the definitions.

`report.html` has definitions of its own, because its reader may not have the documentation. docs/reference/figures.md
has longer definitions.
"""

from __future__ import annotations

import re
from html import escape

from afina.methods import METHODS

TERMS: dict[str, str] = {
    "95 % interval": "A range that contains the true value in 95 of 100 repetitions of the study, with other texts of "
    "this kind and, if several seeds were run, with other seeds.",
    "better": "The difference is significant: the adjusted p value is below 0.05.",
    "worse": "The difference is significant: the adjusted p value is below 0.05.",
    "equivalent": "The difference is significantly smaller than the margin (for shares, 1 percentage point), by two "
    "one-sided tests (TOST).",
    "undecided": "The results show no significant difference, and are not precise enough to show equivalence. More "
    "texts or seeds are needed.",
    "p, adjusted": "The p value of the hypothesis that the two methods do not differ, after Holm's correction for the "
    "number of pairs.",
    "seed": "The random seed of a run. It sets the initial head, the order of the texts and the dropout.",
    "held-out texts": "Labelled texts that took no part in training or in choosing a setting.",
    "evaluation texts": "Labelled texts that took no part in training. All figures are measured on them.",
    "validation texts": "Texts held back from training, on which a setting is selected.",
    "Trainable": "The number of parameters that training changes, with the classification head.",
    "State": "Bytes of weights, gradients and optimizer state during training.",
    "Activations": "Bytes of intermediate results that a training step keeps for the backward pass.",
    "Pareto front": "The methods that no other method beats on one axis without losing on the other.",
    "F1": "The harmonic mean of precision and recall.",
    "AUROC": "The area under the ROC curve: the probability that a positive text gets a higher score than a negative "
    "text.",
    "ROUGE-L": "The F1 of the longest common subsequence of words of an answer and a reference.",
    "ROUGE-1": "The F1 of the words that an answer and a reference share.",
    "ROUGE-2": "The F1 of the pairs of neighbouring words that an answer and a reference share.",
    "BLEU": "The share of n-grams of one to four words that occur in a reference (geometric mean), less for short "
    "answers; one value for all answers together.",
    "chrF": "An F score of the n-grams of one to six characters that answers and references share.",
    "NIST": "Like BLEU, but rare n-grams count more. NIST has no upper bound.",
    "Token F1": "The F1 of the words that an answer and a reference share, apart from case, punctuation and articles.",
    "Perplexity": "The exponential of the mean loss of a token of the references: 1 if the model was certain of each.",
    "Length ratio": "The words of all answers, divided by the words of their references of the nearest length.",
    "jackknife values": "Values of single texts from computing a metric again without each text.",
    "greedy search": "Generation that takes the most probable token at each step.",
    "beam search": "Generation that keeps several beginnings of an answer, and returns the most probable answer found.",
    "Holm's correction": "A correction of p values for the number of comparisons.",
    "confusion matrix": "The number of texts by right label and predicted label.",
    "TF-IDF + logistic regression": "A baseline without a language model: logistic regression on weighted word counts.",
    "majority class": "A baseline that predicts the most frequent label of the training texts for every text.",
}
"""The definitions by term, in the order in which `report.html` shows them."""

PLACE = "<!-- terms -->"
"""The comment in the HTML template that is replaced by the definitions."""

_SKIPPED = re.compile(r"<(svg|style|title|nav|code|pre|h1|h2|h3|figure|dl|a)\b.*?</\1>|<[^>]*>", re.DOTALL)
"""The markup in which no term is linked: headings, links, code, drawings, and every HTML tag itself."""


def linked(page: str) -> str:
    """Return the HTML page with the definitions of its terms at `PLACE`, and each term's first use as a link."""
    texts = TERMS | {method.title: method.summary for method in METHODS.values()}
    by_length = sorted(texts, key=len, reverse=True)
    pattern = re.compile(rf"(?<![\w-])(?:{'|'.join(re.escape(escape(term)) for term in by_length)})(?![\w-])")
    named = {escape(term): term for term in texts}
    seen: dict[str, None] = {}

    def link(found: re.Match[str]) -> str:
        term = named[found[0]]
        if term in seen:
            return found[0]
        seen[term] = None
        return f'<a class="term" href="#{_anchor(term)}">{found[0]}</a>'

    before, _, rest = page.partition('<div class="content">')
    parts, end = [], 0
    for markup in _SKIPPED.finditer(rest):
        parts += [pattern.sub(link, rest[end : markup.start()]), markup[0]]
        end = markup.end()
    content = "".join([*parts, pattern.sub(link, rest[end:])])
    definitions = "\n".join(
        f'<div><dt id="{_anchor(term)}">{escape(term)}</dt><dd>{escape(texts[term])}</dd></div>'
        for term in texts
        if term in seen
    )
    section = (
        f'<section aria-labelledby="terms">\n<h2 id="terms">Terms</h2>\n<dl class="terms">\n{definitions}\n</dl>\n'
    )
    return f'{before}<div class="content">{content}'.replace(PLACE, f"{section}</section>")


def _anchor(term: str) -> str:
    return f"term-{re.sub(r'[^a-z0-9]+', '-', term.lower()).strip('-')}"
