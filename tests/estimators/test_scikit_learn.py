"""scikit-learn's own `check_estimator`, as far as texts allow.

scikit-learn checks nothing of an estimator that takes no rows of numbers, its own CountVectorizer included. So its
checks run on a face of this file that writes each row of numbers down as a text: whatever is not about the numbers
themselves is then the estimator's own. What cannot hold is expected to fail, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import SkipTestWarning
from sklearn.utils.estimator_checks import check_estimator, estimator_checks_generator
from sklearn.utils.validation import check_is_fitted, validate_data

from afina import Backbone, TextClassifier, TextRegressor, TokenClassifier

EXPECTED = {
    "check_class_weight_classifiers": "balanced",
    "check_sample_weight_equivalence_on_dense_data": "fitting with `sample_weight` is not equivalent",
}
"""By check, the error with which it ends: class_weight is no mapping of labels to weights, and repeated rows make other
batches (test_estimators.py has the equivalence in one batch)."""

ROUNDED = {
    "check_methods_subset_invariance": "is not invariant when applied to a subset",
    "check_methods_sample_order_invariance": "is not invariant when applied to a dataset with different sample order",
}
"""They expect 1e-7, and float32 rounds otherwise in another batch on some processors; tests/predicting hold 1e-5."""

QUICK: dict[str, Any] = {"method": "head", "training": {"max_steps": 1, "dtype": "float32"}, "batch_size": 4}


class _OfNumbers:
    """Rows of numbers as texts; their number of columns, and its checks, are scikit-learn's."""

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        rows = validate_data(self, X, reset=True)
        seen = {name: getattr(self, name) for name in ("n_features_in_", "feature_names_in_") if hasattr(self, name)}
        super().fit(_written(rows), y, sample_weight)  # type: ignore[misc]
        vars(self).update(seen)
        return self

    def _predictions(self, X: Any) -> Any:
        check_is_fitted(self)
        return super()._predictions(_written(validate_data(self, X, reset=False)))  # type: ignore[misc]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()  # type: ignore[misc]
        tags.input_tags.two_d_array, tags.input_tags.string = True, False
        return tags


def _written(rows: np.ndarray) -> list[str]:
    return [" ".join(f"{value:.3g}" for value in row) for row in rows]


class ClassifierOfNumbers(_OfNumbers, TextClassifier):  # type: ignore[misc]
    pass


class RegressorOfNumbers(_OfNumbers, TextRegressor):  # type: ignore[misc]
    pass


def checks() -> Iterator[Any]:
    """All of the classifier, and of the regressor those that the classifier does not have: they share their base."""
    seen = set[str]()
    for kind in (ClassifierOfNumbers, RegressorOfNumbers):
        made = [(check.func.__name__, one, check) for one, check in estimator_checks_generator(kind(**QUICK))]
        yield from (pytest.param(*rest, id=f"{kind.__name__}-{name}") for name, *rest in made if name not in seen)
        seen |= {name for name, *_ in made}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.DataConversionWarning")
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.filterwarnings("ignore:The labels .* are not words:UserWarning")
@pytest.mark.parametrize(("estimator", "check"), list(checks()))
def test_scikit_learn_finds_an_estimator(gpt2: Backbone, estimator: Any, check: Callable[[Any], None]) -> None:
    name = check.func.__name__  # type: ignore[attr-defined]
    made = clone(estimator).set_params(backbone=gpt2.address)
    if name in ROUNDED:
        try:
            check(made)
        except AssertionError as error:
            if ROUNDED[name] not in str(error):
                raise
        return
    if name in EXPECTED:
        with pytest.raises(Exception, match=EXPECTED[name]):
            check(made)
        return
    check(made)


@pytest.mark.parametrize("kind", [TextClassifier, TextRegressor, TokenClassifier])
def test_of_texts_themselves_scikit_learn_checks_nothing(kind: type[Any]) -> None:
    """If it ever does, the face above is no longer needed."""
    with pytest.warns(SkipTestWarning, match="Can't test estimator"):
        check_estimator(kind())
