"""What recorded curves teach `afina choose`: the order of settings on one or several backbones, and how good each is.

The fitted method comes before all others. Then the orders of the backbones are merged: each next setting is the one
that adds most held-out accuracy for its seconds to the settings before it, of which the best on the validation set is
kept. Seconds are those of both backbones on one machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from afina.methods import make
from learning_curves import ENCODER, FITTED, HELD_OUT, Cell
from policies import MOST_COUNTS, ON, Learnt, Recorded, Setting, by_validation, learnt, recorded

BACKBONES = ("embedded", ENCODER)
KINDS = {"embedded": "causal", ENCODER: "encoder"}


def together(
    lines: Sequence[Mapping[str, Any]], cell: Cell, backbones: Sequence[str] = BACKBONES, *, beside: bool = True
) -> Recorded:
    """A cell whose settings are methods on backbones, called as in `choose`."""
    parts = [_named(recorded(lines, cell, one, beside=beside, fitted=True), one) for one in backbones]
    first = parts[0]
    merged = {
        name: {key: value for part in parts for key, value in getattr(part, name).items()}
        for name in ("long", "ends", "short", "paces")
    }
    return replace(first, **merged)


def _named(cell: Recorded, backbone: str) -> Recorded:
    """The same cell with the backbone in the name of each method."""

    def called(method: str) -> str:
        return f"{method}{ON}{backbone}"

    ends = {
        (called(method), rate): replace(kept, setting=(called(method), rate))
        for (method, rate), kept in cell.ends.items()
    }
    return replace(
        cell,
        ends=ends,
        long={(called(method), rate): points for (method, rate), points in cell.long.items()},
        short={
            (called(method), rate): (steps, replace(kept, setting=(called(method), rate)))
            for (method, rate), (steps, kept) in cell.short.items()
        },
        paces={called(method): pace for method, pace in cell.paces.items()},
    )


def is_fitted(setting: Setting) -> bool:
    """Whether scikit-learn fits the setting."""
    return setting[0].startswith(FITTED)


def by_time(known: Sequence[Recorded], orders: Sequence[Sequence[Setting]], *, timed: bool = True) -> list[Setting]:
    """Merge the orders of backbones: each next setting is the one that adds most for its seconds, over cells.

    Of the settings so far, the best on the validation set is kept. Of settings that add nothing, the cheapest is next.
    timed: count the seconds.
    """
    order = [one for one in known[0].settings if is_fitted(one)]
    rest = [[one for one in each if not is_fitted(one)] for each in orders]

    def reached(settings: Sequence[Setting]) -> float:
        kept = [max((each.ends[one] for one in settings), key=by_validation) for each in known]
        return float(np.mean([one.right.mean() for one in kept]))

    def gains(one: Setting, before: float) -> tuple[float, float]:
        gain, seconds = reached([*order, one]) - before, _seconds(known, one)
        return (max(gain, 0.0) / (seconds if timed else 1.0), -seconds)

    while any(rest):
        before = reached(order)
        following = [each for each in rest if each]
        chosen = max(following, key=lambda each: gains(each[0], before))
        order.append(chosen.pop(0))
    return order


def _seconds(known: Sequence[Recorded], setting: Setting) -> float:
    """The seconds of a whole run, a mean over cells."""
    return float(np.mean([cell.seconds(setting[0], cell.cell.steps, cell.cut + HELD_OUT) for cell in known]))


@dataclass(frozen=True)
class LearntOver:
    """What cells teach of several backbones: what is learnt of each, and the order over all."""

    each: Mapping[str, Learnt]
    order: Sequence[Setting]
    levels: Mapping[str, float]
    level_counts: float


def taught(known: Sequence[Recorded], *, timed: bool = True) -> LearntOver:
    """What cells teach of the backbones that they have."""
    backbones = dict.fromkeys(backbone_of(one) for one in known[0].settings)
    each = {name: _of_one([only(cell, [name]) for cell in known]) for name in backbones}
    orders = [each[name].order for name in backbones]
    order = by_time(known, orders, timed=timed) if len(orders) > 1 else orders[0]
    return LearntOver(each, order, *_levels(known, [*backbones]))


def _levels(known: Sequence[Recorded], backbones: Sequence[str]) -> tuple[dict[str, float], float]:
    """Each backbone's mean accuracy beside the mean of all, and its weight in texts, as `_counts` has it for settings.

    The weight is the variance of an answer on one text, divided by the variance of a backbone's level between cells.
    """
    settings = [one for one in known[0].settings if not is_fitted(one)]
    right = np.array([[cell.ends[one].right for one in settings] for cell in known], float)
    names = np.array([backbone_of(one) for one in settings])
    means = np.stack([right[:, names == name].mean(axis=(1, 2)) for name in backbones], axis=1)
    beside = means - means.mean(axis=1, keepdims=True)
    levels = dict(zip(backbones, beside.mean(axis=0).tolist(), strict=True))
    rest = right - right.mean(1, keepdims=True) - right.mean(2, keepdims=True) + right.mean((1, 2), keepdims=True)
    of_a_text = float((rest**2).sum()) / (len(known) * (len(settings) - 1) * (right.shape[2] - 1))
    freedom = max(1, (len(known) - 1) * (len(backbones) - 1))
    between = float(((beside - beside.mean(axis=0)) ** 2).sum()) / freedom
    return levels, min(MOST_COUNTS, of_a_text / max(between, 1e-9))


def _of_one(known: Sequence[Recorded]) -> Learnt:
    """What cells teach of one backbone. Advantages are over the mean of the settings that are trained in steps."""
    fitted = [one for one in known[0].settings if is_fitted(one)]
    trained = [
        replace(cell, ends={one: kept for one, kept in cell.ends.items() if one not in fitted}) for cell in known
    ]
    found = learnt(trained)
    means = [np.mean([kept.right.mean() for kept in mine.ends.values()]) for mine in trained]
    ahead = {
        one: float(np.mean([cell.ends[one].right.mean() - mean for cell, mean in zip(known, means, strict=True)]))
        for one in fitted
    }
    return Learnt([*fitted, *found.order], {**found.ahead, **ahead}, found.counts)


def only(cell: Recorded, backbones: Sequence[str]) -> Recorded:
    """The cell with the settings of some backbones only."""
    return replace(cell, ends={one: kept for one, kept in cell.ends.items() if backbone_of(one) in backbones})


def backbone_of(setting: Setting) -> str:
    """The backbone of a setting."""
    return setting[0].partition(ON)[2]


Names = tuple[str, str, float]
"""A setting in the form of `recorded_curves`: kind of backbone, method, factor of its default rate there."""


def named_setting(one: Setting) -> Names:
    """The setting in the form of `recorded_curves`."""
    method, _, backbone = one[0].partition(ON)
    return of_rate(KINDS[backbone], method, None if is_fitted(one) else one[1])


def of_rate(kind: str, method: str, rate: float | None) -> Names:
    """The setting with a learning rate, as the nearest recorded factor of the default; None: no steps are taken."""
    factor = 1.0 if rate is None else rate / make(method).rate_on(kind == "encoder")
    near = min((0.25, 1 / 3, 0.5, 1.0, 2.0, 3.0, 4.0), key=lambda each: abs(float(np.log(each / factor))))
    return kind, method, near
