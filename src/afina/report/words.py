"""Values in words: settings, counts, seconds, bytes, shares, points. Knows numbers; not what they are of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isnan

NOTHING = "–"
"""Stands where there is no value."""

UNDEFINED = "undefined"
"""Stands for a metric that these answers do not have, such as the AUROC of texts of one label."""


FEW = 30
"""Evaluated texts, below which a figure says little."""


def brief(text: str, longest: int = 40) -> str:
    """One printable line."""
    line = "".join(letter for letter in " ".join(text.split()) if letter.isprintable())
    return line if len(line) <= longest else line[: longest - 1].rstrip() + "…"


def number_of_texts(count: int) -> str:
    """`1 text`, `1,000 texts`."""
    return f"{count:,} text{'s' * (count != 1)}"


def too_few(count: int) -> str:
    """What is to be said of a figure on `count` texts, where they are few."""
    return f"; too few to say anything: below {FEW}" if count < FEW else ""


def in_words(values: Mapping[str, object]) -> str:
    """`r 4, alpha 16, targets c_attn`; unset values are left out."""
    return ", ".join(f"{key} {value_in_words(value)}" for key, value in values.items() if value is not None)


def value_in_words(value: object) -> str:
    """`yes`, `16`, `2e-05`, `q_proj + v_proj`."""
    if value is True or value is False:
        return "yes" if value else "no"
    if isinstance(value, float) and value.is_integer():
        return f"{value:.0f}"
    return " + ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def listed(names: Sequence[str], last: str = "and") -> str:
    """`a`, `a and b`, `a, b and c`."""
    return f" {last} ".join([*([", ".join(names[:-1])] if names[:-1] else []), names[-1]])


def count(value: float) -> str:
    """A whole number, thousands set apart."""
    return f"{value:,.0f}"


def seconds(value: float) -> str:
    """Seconds, to the hundredth as the paper prints them."""
    return f"{value:,.2f}"


def share(value: float) -> str:
    """A share: `0.8721`; `undefined` of a metric that is."""
    return UNDEFINED if isnan(value) else f"{value:.4f}"


def span(interval: tuple[float, float]) -> str:
    """An interval of shares: `0.8721 to 0.9107`; `undefined` where its ends are."""
    return UNDEFINED if isnan(interval[0]) else f"{share(interval[0])} to {share(interval[1])}"


def percent(value: float) -> str:
    """Four decimals as the paper prints them; all and nothing without."""
    return f"{value:.0f}" if value in (0, 100) else f"{value:.4f}"


def points(difference: float) -> str:
    """A difference of shares in percentage points, with its sign: `+1.20`, `−0.30`, `0.00`."""
    text = f"{100 * difference:+.2f}".replace("-", "−")
    return text[1:] if float(f"{100 * difference:.2f}") == 0 else text


def chance(p: float) -> str:
    """A p-value, to three decimals."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def size(value: float) -> str:
    """Bytes in GiB (2^30) from 0.1 GiB up, in MiB (2^20) below."""
    gib = value / 2**30
    return f"{gib:.2f} GiB" if gib >= 0.1 else f"{value / 2**20:.1f} MiB"
