"""Every metric against scikit-learn and scipy, and its values of examples against the jackknife."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats as scipy_stats
from sklearn import metrics as theirs

import references
from afina.stats import classification, intervals
from afina.stats.metrics import METRICS, Answered, Metric, of_kind

COMPARED = [metric for metric in METRICS.values() if metric.values]


def classes(
    generator: np.random.Generator, n: int, count: int, *, rounded: bool = False, rare: bool = False
) -> Answered:
    """Noisy logits; `rounded` so that many are equal, `rare` so that each class but the first is a tenth."""
    shares = np.full(count, 1 / count) if not rare else np.array([1.1 - 0.1 * count] + [0.1] * (count - 1))
    targets = generator.choice(count, n, p=shares)
    logits = generator.standard_normal((n, count)) + 1.5 * np.eye(count)[targets] + np.log(shares)
    if rounded:
        logits = np.round(logits)
    chances = classification.probabilities(logits)
    return Answered(targets, chances.argmax(axis=1), chances)


def numbers(generator: np.random.Generator, n: int, *, rounded: bool = False) -> Answered:
    targets = 2 * generator.standard_normal(n) + 3
    answers = 0.8 * targets + generator.standard_normal(n)
    return Answered(np.round(targets), np.round(answers)) if rounded else Answered(targets, answers)


def labels(generator: np.random.Generator, n: int, *, rounded: bool = False) -> Answered:
    at = np.array([0.0, 0.5, -0.5, -1.2, 1.0])
    latent = generator.standard_normal((n, 5)) + 0.5 * generator.standard_normal((n, 1))
    logits = 2 * latent + generator.standard_normal((n, 5)) + at
    logits = np.round(logits) if rounded else logits
    return Answered(latent + at > 0, logits > 0, 1 / (1 + np.exp(-logits)))


def made(metric: Metric, generator: np.random.Generator, n: int, *, rounded: bool = False) -> list[Answered]:
    if metric.kind == "number":
        return [numbers(generator, n, rounded=rounded)]
    if metric.kind == "labels":
        return [labels(generator, n, rounded=rounded)]
    if metric.kind == "text":
        return [references.texts(generator, n, most=1 if rounded else 4)]
    if metric.kind == "entities":
        return [references.entities(generator, n)]
    counts = (2,) if metric.classes else (2, 4)
    return [classes(generator, n, count, rounded=rounded, rare=rare) for count in counts for rare in (False, True)]


def _f1(a: Answered) -> float:
    count = a.chances.shape[1]
    options = {"average": "binary"} if count == 2 else {"average": "macro", "labels": range(count)}
    return theirs.f1_score(a.targets, a.answers, zero_division=np.nan, **options)


def _average_precision(a: Answered) -> float:
    occurring = a.targets.any(axis=0)
    return theirs.average_precision_score(a.targets[:, occurring], a.chances[:, occurring], average="macro")


THEIRS: dict[str, Callable[[Answered], float]] = {
    "accuracy": lambda a: theirs.accuracy_score(a.targets, a.answers),
    "f1": _f1,
    "balanced_accuracy": lambda a: theirs.balanced_accuracy_score(a.targets, a.answers),
    "mcc": lambda a: theirs.matthews_corrcoef(a.targets, a.answers),
    "auroc": lambda a: theirs.roc_auc_score(a.targets, a.chances[:, 1]),
    "log_loss": lambda a: theirs.log_loss(a.targets, a.chances, labels=range(a.chances.shape[1])),
    "brier": lambda a: theirs.brier_score_loss(
        a.targets, a.chances if a.chances.shape[1] > 2 else a.chances[:, 1], labels=range(a.chances.shape[1])
    ),
    "pearson": lambda a: scipy_stats.pearsonr(a.targets, a.answers).statistic,
    "spearman": lambda a: scipy_stats.spearmanr(a.targets, a.answers).statistic,
    "rmse": lambda a: theirs.root_mean_squared_error(a.targets, a.answers),
    "mae": lambda a: theirs.mean_absolute_error(a.targets, a.answers),
    "r2": lambda a: theirs.r2_score(a.targets, a.answers),
    "micro_f1": lambda a: theirs.f1_score(a.targets, a.answers, average="micro"),
    "macro_f1": lambda a: theirs.f1_score(a.targets, a.answers, average="macro", zero_division=np.nan),
    "exact_match": lambda a: theirs.accuracy_score(a.targets, a.answers),
    "average_precision": _average_precision,
    **references.METRICS,
    **references.OF_ENTITIES,
}


def test_every_metric_but_the_calibration_error_has_a_reference() -> None:
    assert THEIRS.keys() == METRICS.keys() - {"ece"}
    assert [name for name, metric in METRICS.items() if not metric.values] == ["ece", "perplexity", "length_ratio"]


@pytest.mark.parametrize("name", THEIRS)
@pytest.mark.parametrize("rounded", [False, True])
def test_figures_are_those_of_other_libraries(name: str, rounded: bool) -> None:
    for n in (7, 300):
        for answered in made(METRICS[name], np.random.default_rng(n), n, rounded=rounded):
            found = METRICS[name].value(answered)
            assert type(found) is float
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # sevens lack a class now and then
                expected = THEIRS[name](answered)
            if np.isfinite(expected):
                assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("metric", COMPARED, ids=lambda metric: metric.name)
@pytest.mark.parametrize("rounded", [False, True])
def test_the_mean_of_the_values_is_the_figure(metric: Metric, rounded: bool) -> None:
    for n in (3, 40, 1000):
        for answered in made(metric, np.random.default_rng(n), n, rounded=rounded):
            values = metric.values(answered)
            assert values.shape == (n,)
            assert values.dtype == (bool if metric.counted else np.float64)
            assert values.mean() == pytest.approx(metric.value(answered), abs=1e-9, nan_ok=True)


@pytest.mark.parametrize(
    ("metric", "rounded"),
    [
        pytest.param(metric, place % 2 == 1, id=metric.name, marks=pytest.mark.slow if metric.kind == "text" else ())
        for place, metric in enumerate(COMPARED)
    ],
)
def test_the_values_are_those_of_the_jackknife(metric: Metric, rounded: bool) -> None:
    """Tukey's pseudo-values: N T - (N - 1) T without the example; of 150 examples where there are more."""
    n = {"classes": 1500, "text": 100, "entities": 200}.get(metric.kind, 600)
    for answered in made(metric, np.random.default_rng(1), n, rounded=rounded):
        values = metric.values(answered).astype(float)
        some = np.random.default_rng(2).permutation(n)[:150]
        whole, values, pseudo = values.mean(), values[some], np.empty(len(some))
        for place, index in enumerate(some):
            rest = np.arange(n) != index
            chances = None if answered.chances is None else answered.chances[rest]
            extras = {name: array[rest] for name, array in answered.extras.items()}
            without = Answered(answered.targets[rest], answered.answers[rest], chances, extras)
            pseudo[place] = n * whole - (n - 1) * metric.values(without).mean()
        assert np.corrcoef(values, pseudo)[0, 1] > 0.99
        assert values.std() == pytest.approx(pseudo.std(), rel=0.04)


def test_the_spread_of_the_values_is_that_of_the_figure_over_samples() -> None:
    """Of 400 samples of 400 examples each; the standard error of a standard deviation is 3.5 %.

    Metrics of texts, which take longer, and of entities are compared with the jackknife alone.
    """
    for kind in ("classes", "number", "labels"):
        generator, first = np.random.default_rng(3), METRICS[of_kind(kind)[0]]
        samples = [made(first, generator, 400)[0] for _ in range(400)]
        for metric in (one for one in COMPARED if one.kind == kind):
            values = np.array([metric.values(sample) for sample in samples], float)
            foreseen = np.sqrt(values.var(axis=1).mean() / 400)
            assert foreseen == pytest.approx(values.mean(axis=1).std(), rel=0.1), metric.name


ALONE = np.zeros(6, int)
HALF = np.full((6, 2), 0.5)
MIXED = np.array([0, 1, 0, 1, 1, 0])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("metric", METRICS.values(), ids=lambda metric: metric.name)
def test_a_figure_is_in_its_range_or_undefined_as_are_its_values_and_its_interval(metric: Metric) -> None:
    if metric.kind == "classes":
        cases = [Answered(t, a, HALF) for t in (ALONE, ALONE + 1, MIXED) for a in (ALONE, ALONE + 1, MIXED)]
        sure = np.eye(2)[MIXED]
        cases += [
            Answered(MIXED, MIXED, sure),
            Answered(MIXED, 1 - MIXED, 1 - sure),
            Answered(ALONE[:1], ALONE[:1], HALF[:1]),
        ]
    elif metric.kind == "number":
        ramp = np.arange(6.0)
        cases = [Answered(t, a) for t in (ramp, ramp * 0 + 0.1) for a in (ramp, -ramp, ramp * 0, ramp * 0 + 0.1)]
        cases.append(Answered(ramp[:1], ramp[:1]))
    elif metric.kind == "text":
        cases = references.edges()
    elif metric.kind == "entities":
        none, one, other = [["O", "O"]] * 6, [["B-LOC", "I-LOC"]] * 6, [["O", "B-PER"], ["B-LOC", "O"]] * 3
        cases = [references.tagged(t, a) for t in (none, one, other) for a in (none, one, other)]
    else:
        none, each = np.zeros((6, 3), bool), np.arange(18).reshape(6, 3) % 2 == 0
        cases = [Answered(t, a, a / 2) for t in (none, ~none, each) for a in (none, ~none, each)]
    for answered in cases:
        found = metric.value(answered)
        assert np.isnan(found) or metric.range[0] - 1e-12 <= found <= metric.range[1] + 1e-12
        assert not np.isnan(found) or metric.needs
        if metric.values:
            assert metric.values(answered).mean() == pytest.approx(found, abs=1e-9, nan_ok=True)
            values, interval = metric.values(answered), intervals.estimate_of_answers([answered], metric).interval
            assert len(values) < intervals.FEWEST
            undefined = np.isnan(found) or not (metric.counted or metric.name == "f1")
            assert np.isnan([interval.low, interval.high]).tolist() == [undefined] * 2


def test_what_is_not_defined_is_not_zero() -> None:
    alone, constant = Answered(ALONE, ALONE, HALF), Answered(np.arange(6.0), np.ones(6))
    assert np.isnan([METRICS[name].value(alone) for name in ("f1", "mcc", "auroc")]).all()
    assert METRICS["f1"].value(Answered(ALONE, ALONE + 1, HALF)) == 0.0
    assert METRICS["f1"].value(Answered(ALONE + 1, ALONE, HALF)) == 0.0
    assert np.isnan([METRICS[name].value(constant) for name in ("pearson", "spearman")]).all()
    assert np.isnan(METRICS["r2"].value(Answered(np.ones(6), np.arange(6.0))))
    nothing = Answered(np.zeros((4, 2), bool), np.zeros((4, 2), bool), np.zeros((4, 2)))
    found = [METRICS[name].value(nothing) for name in of_kind("labels")]
    assert found == pytest.approx([np.nan, np.nan, 1.0, np.nan], nan_ok=True)


def test_one_answer_to_everything_has_no_matthews_correlation_of_its_own_but_zero_as_in_scikit_learn() -> None:
    assert METRICS["mcc"].value(Answered(MIXED, ALONE, HALF)) == 0.0


def test_another_positive_class_turns_what_is_about_one_class_alone() -> None:
    answered = classes(np.random.default_rng(0), 300, 2, rare=True)
    turned = answered.turned
    for name in ("accuracy", "balanced_accuracy", "mcc", "log_loss", "brier", "auroc"):
        assert METRICS[name].value(turned) == pytest.approx(METRICS[name].value(answered))
    assert METRICS["f1"].value(turned) == theirs.f1_score(answered.targets, answered.answers, pos_label=0)


def test_calibration_by_hand() -> None:
    """Of five bins, 0.5 and 0.55 are in the third (upper ends belong), 0.9 three times in the last."""
    top = np.array([0.5, 0.55, 0.9, 0.9, 0.9])
    chances, targets = np.stack([top, 1 - top], axis=1), np.array([0, 1, 0, 0, 1])
    confidence, share, counts = classification.reliability(chances, targets, bins=5)
    assert confidence == pytest.approx([0.525, 0.9])
    assert share == pytest.approx([1 / 2, 2 / 3])
    assert counts.tolist() == [2, 3]
    expected = (abs(0.5 - 1) + abs(0.55 - 0) + 3 * abs(0.9 - 2 / 3)) / 5
    assert METRICS["ece"].value(Answered(targets, chances.argmax(axis=1), chances)) == pytest.approx(expected)
    perfect = np.eye(3)[[0, 1, 2]]
    assert METRICS["ece"].value(Answered(np.arange(3), np.arange(3), perfect)) == 0.0


def test_risk_and_coverage_by_hand() -> None:
    """The two equally confident answers, one of them right, count half each, in either order."""
    top = np.array([0.7, 0.95, 0.7, 0.6])
    chances, targets = np.stack([top, 1 - top], axis=1), np.array([0, 0, 1, 1])
    for order in ([0, 1, 2, 3], [2, 3, 0, 1]):
        coverage, share = classification.risk_coverage(chances[order], targets[order])
        assert coverage == pytest.approx([0.25, 0.5, 0.75, 1.0])
        assert share == pytest.approx([1, 1.5 / 2, 2 / 3, 2 / 4])


def test_metrics_say_what_they_fit_and_which_differences_are_small() -> None:
    two, four = (classes(np.random.default_rng(0), 50, count) for count in (2, 4))
    assert METRICS["auroc"].fits(two)
    assert not METRICS["auroc"].fits(four)
    assert not METRICS["log_loss"].fits(Answered(two.targets, two.answers))
    assert METRICS["f1"].fits(Answered(two.targets, two.answers))
    targets = np.array([1.0, 3.0])
    assert METRICS["rmse"].margin(targets) == METRICS["mae"].margin(targets) == 0.05
    assert METRICS["rmse"].margin(np.ones(3)) > 0
    assert METRICS["pearson"].margin(targets) == METRICS["accuracy"].margin(targets) == 0.01
    assert METRICS["nist"].margin(references.texts(np.random.default_rng(0), 3).targets) == 0.1


def test_the_first_of_a_kind_is_its_headline() -> None:
    kinds = {kind: of_kind(kind) for kind in ("classes", "number", "labels", "text", "entities")}
    assert [names[0] for names in kinds.values()] == ["accuracy", "pearson", "micro_f1", "rouge_l", "entity_f1"]
    assert [name for names in kinds.values() for name in names] == list(METRICS)
    assert of_kind("nothing") == ()


def test_knowing_the_metrics_takes_neither_scikit_learn_nor_scipy() -> None:
    code = (
        "import sys, afina.stats.metrics; print({'sklearn', 'scipy', 'sacrebleu', 'rouge_score'} & sys.modules.keys())"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"
