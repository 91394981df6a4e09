"""The errors of `afina.training`, each with its exception class, code and message."""

from __future__ import annotations

from functools import partial

from afina.errors import Diverged, InvalidStudy, Problem

ONE_LABEL = Problem(
    InvalidStudy,
    "method.one-label",
    "method {method}: all {texts:,} training texts have the same label, but a fit needs texts of two labels. "
    "Give more texts.",
)

PRODUCTS_WITHOUT_LAYER = Problem(
    InvalidStudy,
    "method.products-unsupported",
    "method {method}: the backbone has no frozen linear layer whose products can be in {products}. For this method, "
    "set products to float.",
)

WARMUP_TOO_LONG = Problem(
    InvalidStudy,
    "option.invalid",
    "`warmup` {found:g}: the learning rate would rise in all of the training's {steps:,} steps. Give fewer "
    "steps, or a share of all steps below 1, such as 0.06.",
)
PULL_INAPPLICABLE = Problem(
    InvalidStudy,
    "option.inapplicable",
    "method {method}: the method trains no weight of the backbone, so `pull` has no effect. Use `pull` only with "
    "methods such as full.",
)

_run_diverged = partial(Problem, Diverged, "run.diverged")
LOSS_NOT_FINITE = _run_diverged(
    "step {step} of {steps}: the loss is {loss}, expected a finite number. Lower the learning rate (it was "
    "{learning_rate:g})."
)
FEATURES_NOT_FINITE = _run_diverged(
    "the frozen body gives NaN or infinite features. Set `dtype` to float32, or use another backbone."
)
