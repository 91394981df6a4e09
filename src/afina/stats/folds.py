"""Folds of a cross-validation: groups of examples stay together, and each stratum is spread evenly over the folds."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np


def stratified_folds(strata: np.ndarray, groups: Sequence[Hashable], count: int, seed: int) -> np.ndarray:
    """Return the fold of each example, int64 [N] from 0 to `count` - 1.

    Groups are dealt to the folds in a random order, the largest first. A group goes to the fold with the fewest
    examples of its stratum, and of several such folds to the one with the fewest examples. A group has the stratum of
    its first example.
    """
    members: dict[Hashable, list[int]] = {}
    for place, group in enumerate(groups):
        members.setdefault(group, []).append(place)
    dealt, sizes = list(members.values()), np.array([len(one) for one in members.values()])
    random = np.random.default_rng(seed).permutation(len(dealt))
    folds, totals = np.zeros(len(strata), np.int64), np.zeros(count, np.int64)
    of_stratum: dict[int, np.ndarray] = {}
    for index in random[np.argsort(-sizes[random], kind="stable")]:
        places = dealt[index]
        held = of_stratum.setdefault(int(strata[places[0]]), np.zeros(count, np.int64))
        fold = np.lexsort((totals, held))[0]
        folds[places] = fold
        held[fold] += len(places)
        totals[fold] += len(places)
    return folds
