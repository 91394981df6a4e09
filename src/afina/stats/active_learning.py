"""Active learning: choose, from the features of unlabelled texts, the texts whose labels teach a model most.

docs/background/benchmarks.md says how many labels the rule saves.
"""

from __future__ import annotations

import numpy as np

SPAN = 10  # times as many texts among which uncertain ones are chosen
ITERATIONS = 50  # of k-means, at most


def diverse(features: np.ndarray, count: int, weights: np.ndarray | None = None) -> np.ndarray:
    """Return the indices of `count` texts that differ from each other, int64 [count], in rising order.

    k-means divides the texts into `count` clusters, and the text nearest to the centre of each cluster is chosen. A
    chosen text thus stands for many others, and outliers are seldom chosen. If some clusters are empty, because texts
    have equal features, the texts that are farthest from the chosen texts complete the number.

    Args:
        features: float [N, width].
        weights: The weight of each text in the centres of the clusters, [N], above 0. None: all weights are 1.
    """
    if count <= 0:
        return np.zeros(0, np.int64)
    from sklearn.cluster import KMeans

    points = np.asarray(features, np.float64)
    clusters = min(count, len(np.unique(points, axis=0)))
    found = KMeans(clusters, n_init=1, max_iter=ITERATIONS, random_state=0).fit(points, sample_weight=weights)
    far = ((points - found.cluster_centers_[found.labels_]) ** 2).sum(axis=1)
    order = np.lexsort((far, found.labels_))
    _, first = np.unique(found.labels_[order], return_index=True)
    chosen = order[first]
    return np.sort(_completed(points, chosen, count))


def _completed(points: np.ndarray, chosen: np.ndarray, count: int) -> np.ndarray:
    """Return `chosen` and the texts that are farthest from those chosen so far, `count` in all."""
    made = chosen.tolist()
    distance = np.min([((points - points[one]) ** 2).sum(axis=1) for one in made], axis=0)
    distance[made] = -1
    while len(made) < count:
        made.append(int(distance.argmax()))
        distance = np.minimum(distance, ((points - points[made[-1]]) ** 2).sum(axis=1))
        distance[made] = -1
    return np.array(made[:count], np.int64)


def uncertain(features: np.ndarray, margin: np.ndarray, count: int) -> np.ndarray:
    """Return the indices of `count` texts with uncertain predictions that differ from each other, int64 [count].

    The choice is `diverse` among the SPAN * `count` texts with the smallest margins, with a weight that rises from 0 at
    the largest to 1 at the smallest of these margins (Zhdanov, Diverse mini-batch active learning, 2019). A margin is
    the probability of the most probable answer minus that of the second, [N].
    """
    if count <= 0:
        return np.zeros(0, np.int64)
    among = np.sort(np.argsort(margin, kind="stable")[: SPAN * count])
    span = np.ptp(margin[among]) or 1.0
    weights = (margin[among].max() - margin[among]) / span
    chosen: np.ndarray = among[diverse(features[among], count, weights + 1e-6)]
    return chosen
