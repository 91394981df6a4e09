"""The report's table of fitted heads: how scikit-learn fitted each head, and whether gradient steps are better."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from afina.methods import make
from afina.methods.method import Method
from afina.report.arms import Arm
from afina.report.formatting import seconds
from afina.report.tables import Measure, Table, measure, table_of
from afina.report.verdicts import Verdicts
from afina.studies.runs.record import HeadFit, Record

FITTED = "Heads that scikit-learn fitted"


def fitted_table(arms: Sequence[Arm], found: Verdicts) -> Table | None:
    fitted = [arm for arm in arms if arm.record.fitted is not None]
    if not fitted:
        return None
    columns = [
        _text("Pooling", lambda made: made.pooling),
        _text("Normalized", lambda made: "yes" if made.normalize else "no"),
        *([Measure("Label names", _label_names)] if any(_of(arm.record).label_texts for arm in fitted) else []),
        measure(_parameter(fitted), lambda record: _of(record).strength, "{:g}".format),
        measure("Fit (s)", lambda record: _of(record).seconds, seconds),
        _text("Converged", lambda made: "yes" if made.converged else "no"),
    ]
    probes = [arm for arm in fitted if _method(arm).is_fitted]
    chose = "that cross-validation on the training texts chose"
    if len(probes) < len(fitted):
        chose += ", or a fixed value if the body was trained on the labels of these texts"
    notes = (
        f"{_parameter(fitted)}: the strength of regularization {chose}. "
        "Fit: the time of scikit-learn, a part of the training time; the rest computed the features.",
        *_not_converged(fitted),
        *_against_gradient(arms, probes, found),
    )
    return table_of(FITTED, columns, fitted, notes)


def _of(record: Record) -> HeadFit:
    assert record.fitted is not None
    return record.fitted


def _parameter(fitted: Sequence[Arm]) -> str:
    return _of(fitted[0].record).parameter


def _text(heading: str, value: Callable[[HeadFit], str]) -> Measure:
    def cell(arm: Arm) -> str:
        return " or ".join(sorted({value(_of(record)) for record in arm.records}))

    return Measure(heading, cell)


def _label_names(arm: Arm) -> str:
    """Return as how many training texts a label's names count, as a cell."""
    amount = arm.record.hyperparameters.get("label_examples")
    return f"{amount:g} texts each" if amount and _of(arm.record).label_texts else "not used"


def _not_converged(fitted: Sequence[Arm]) -> Iterator[str]:
    for arm in fitted:
        if not all(_of(record).converged for record in arm.records):
            yield (
                f"{arm.label}: the solver stopped before it converged, so the weights depend on where it stopped. More "
                "training texts may help."
            )


def _against_gradient(arms: Sequence[Arm], probes: Sequence[Arm], found: Verdicts) -> Iterator[str]:
    """Yield the comparison of each linear probe with each method that trains only the head by gradient steps."""
    for probe in probes:
        for arm in arms:
            same = (arm.record.backbone, arm.size) == (probe.record.backbone, probe.size)
            comparison = found.between(probe.label, arm.label) if same and _trains_head_alone(arm) else None
            if comparison is not None:
                yield f"The same linear head, by scikit-learn and by gradient steps: {comparison.words}"


def _method(arm: Arm) -> Method:
    return make(arm.record.method, arm.record.hyperparameters)


def _trains_head_alone(arm: Arm) -> bool:
    method = _method(arm)
    return method.trains_head and not method.trains_body and not method.is_fitted
