"""The tables of `afina plan`: forecast costs of each method, also for several precisions of the frozen weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from afina.models.backbone_spec import FLOAT
from afina.report.formatting import NOTHING, count, number_of_texts, seconds, size
from afina.report.tables import Column, Table
from afina.studies.runs.run import Forecast, Terms, shared_terms

PRICE = (
    "Each frozen weight is then rounded to 8 bits, so results can differ a little; the adapter is for a backbone in "
    "this precision only."
)
"""The disadvantages of frozen weights in int8, in two clauses."""


def forecast_table(forecasts: Sequence[Forecast]) -> Table:
    """Return a table of the forecast costs of each method on a CPU, from at least one forecast.

    The notes of the table give the assumptions and the methods that fit in memory. The column of training time is left
    out if no forecast has a time.
    """
    terms = shared_terms(forecasts)
    timed = any(one.train_seconds for one in forecasts)
    rows = tuple(
        (
            one.title,
            count(one.trainable),
            size(one.state_bytes),
            _activations(one),
            size(one.peak),
            size(one.disk_bytes),
            *([seconds(one.train_seconds) if one.train_seconds else NOTHING] if timed else []),
            "yes" if one.fits else "no",
        )
        for one in forecasts
    )
    headings = ("Trainable", "State", "Activations", "Peak", "On disk", *["Training (s)"] * timed, "Fits")
    return Table(
        f"Plan for {terms.backbone} on a CPU, training in {terms.computing}",
        (Column("Method", "left"), *map(Column, headings)),
        rows,
        (
            f"What fits in {size(terms.memory)} of main memory: {_titles([o.title for o in forecasts if o.fits])}.",
            *_offer(forecasts),
            _dtype_note(terms),
            *([_PRODUCTS_NOTE.format(products=terms.products)] if terms.products != FLOAT else []),
            *_activation_notes(forecasts, terms),
            f"Peak: every tensor of a run at its height, and {size(terms.process)} for Python and the libraries."
            f"{_IN_BFLOAT16 * (terms.dtype == 'bfloat16' and terms.products == FLOAT)}",
            *_trunk_notes(forecasts),
            *_pairs_notes(forecasts),
            *_prompts_notes(forecasts),
            _time_note(forecasts),
        ),
    )


def _activation_notes(forecasts: Sequence[Forecast], terms: Terms) -> Iterator[str]:
    """Yield a note on the batch of the activations; nothing if all methods only answer prompts with examples."""
    if any(one.prompts is None for one in forecasts):
        source = f"the largest training batch of `{terms.task}`" if terms.task else "one batch (no task was given)"
        yield (
            f"Activations are those of {source}: {terms.texts:,} texts, {terms.tokens:,} tokens, {terms.longest:,} in "
            "the longest text."
        )


def _prompts_notes(forecasts: Sequence[Forecast]) -> Iterator[str]:
    """Yield notes on the evaluation of methods with training examples in the prompts."""
    for one in forecasts:
        if (prompts := one.prompts) is not None:
            told = (
                "The time is not forecast: it needs the backbone's weights on this machine, and measured answers, "
                "which --no-calibrate leaves out."
                if prompts.seconds is None
                else f"This machine answers them in about {count(max(1, round(prompts.seconds)))} s."
            )
            yield (
                f"{one.title}: the prompts of {number_of_texts(prompts.texts)} for evaluation have "
                f"{count(prompts.tokens)} tokens with the examples, {count(prompts.longest)} in the longest. {told}"
            )


def _trunk_notes(forecasts: Sequence[Forecast]) -> Iterator[str]:
    """Yield notes on methods whose training keeps the outputs of frozen lower blocks."""
    held = [one for one in forecasts if one.trunk_bytes]
    if named := [f"{one.title} ({size(one.trunk_bytes)})" for one in held if not one.scratch_bytes]:
        yield f"State includes the outputs of frozen lower blocks, which are computed once: {', '.join(named)}."
    if named := [f"{one.title} ({size(one.scratch_bytes)})" for one in held if one.scratch_bytes]:
        yield f"A temporary file has the outputs of frozen lower blocks, which are computed once: {', '.join(named)}."


def _pairs_notes(forecasts: Sequence[Forecast]) -> Iterator[str]:
    """Yield notes on methods that train on pairs of texts."""
    for one in forecasts:
        if one.on_pairs:
            yield (
                f"{one.title} trains on pairs of texts. Its largest batch has {one.terms.texts:,} texts with "
                f"{one.terms.tokens:,} tokens. It uses every drawn pair once, whatever the number of epochs."
            )


_IN_BFLOAT16 = (
    " In bfloat16, a CPU keeps the frozen weights twice. The height is often the end of training, when the model is "
    "opened again in float32 for the evaluation."
)


_PRODUCTS_NOTE = (
    "Products with frozen weights are computed in {products}, which needs a CPU. `afina train --set "
    "products={products}` trains so, and keeps the frozen weights in {products} during training. The evaluation opens "
    "the model again in float32."
)


def gpu_table(forecasts: Sequence[Forecast]) -> Table:
    """Return a table of the estimated memory of each method on a GPU, from at least one forecast."""
    terms = shared_terms(forecasts)
    rows = tuple(
        (
            one.title,
            size(one.allocated_end),
            _activations(one),
            size(one.gpu_evaluation),
            size(one.gpu_peak),
            NOTHING if one.fits_gpu is None else "yes" if one.fits_gpu else "no",
        )
        for one in forecasts
    )
    if terms.gpu is None:
        fits = "There is no GPU here; `--memory` says how much another machine's has."
    else:
        fits = f"What fits in {size(terms.gpu)} of GPU memory: {_titles([o.title for o in forecasts if o.fits_gpu])}."
    return Table(
        f"Estimate for {terms.backbone} on a GPU, training in {terms.computing}",
        (Column("Method", "left"), *map(Column, ("State", "Activations", "Evaluation", "Peak", "Fits"))),
        rows,
        (
            fits,
            "Peak: 1.1 times the larger of training (state and activations) and evaluation. The tenth is for CUDA's "
            "context and fragmentation.",
            "Evaluation: the tensors of the evaluation in float32, which follows the training.",
        ),
    )


def _activations(one: Forecast) -> str:
    return NOTHING if one.activation_bytes is None else size(one.activation_bytes)


def _dtype_note(terms: Terms) -> str:
    """Return a note on the dtype of training, and on the dtype that `afina train` would choose on this machine."""
    if terms.dtype == terms.usual_dtype:
        return f"Training computes in {terms.dtype}, as `afina train` does on this machine."
    return (
        f"Training computes in {terms.dtype}. On this machine, `afina train` computes in {terms.usual_dtype}, unless "
        f"you give `--set dtype={terms.dtype}`."
    )


def _titles(titles: Sequence[str]) -> str:
    return ", ".join(titles) or "nothing"


def _time_note(forecasts: Sequence[Forecast]) -> str:
    if all(one.prompts for one in forecasts):
        return "Nothing is trained, so there is no training time."
    if any(one.train_seconds for one in forecasts):
        epochs = forecasts[0].terms.epochs
        return (
            f"Training time is for {epochs} epoch(s) on this machine, from a few steps of each method that fits in it."
        )
    return (
        "No training time is forecast: the time needs a task, the backbone's weights on this machine, and measured "
        "steps, which --no-calibrate leaves out."
    )


def in_int8(needed: int) -> str:
    """Return a clause about a method that does not fit in memory, but would with frozen weights in int8."""
    return f"`afina train --set precision=int8` needs about {size(needed)}, but rounds each frozen weight to 8 bits"


def _offer(forecasts: Sequence[Forecast]) -> Iterator[str]:
    """Yield a note on the methods that fit in memory only with frozen weights in another precision, such as int8."""
    fitting = [(one.title, one.smaller) for one in forecasts if one.smaller is not None]
    if fitting:
        named = ", ".join(f"{title} ({size(other.peak)})" for title, other in fitting)
        yield f"With `--precision {fitting[0][1].terms.precision}`, these fit too: {named}. {PRICE}"


def precision_table(plans: Sequence[Sequence[Forecast]]) -> Table:
    """Return a table with a row for each method and precision of the frozen weights.

    Each element of `plans` has the forecasts of one backbone in one precision.
    """
    terms = plans[0][0].terms
    titles = dict.fromkeys(one.title for plan in plans for one in plan)
    rows = [_row(one) for title in titles for plan in plans for one in plan if one.title == title]
    missing = [
        f"{plan[0].terms.precision}: {', '.join(absent)}"
        for plan in plans
        if (absent := [title for title in titles if title not in {one.title for one in plan}])
    ]
    return Table(
        f"Memory of {terms.backbone} by precision, computing in {terms.dtype}",
        (
            *(Column(name, "left") for name in ("Method", "Precision")),
            *map(Column, ("Training, CPU", "Training, GPU", "Serving", "Fits")),
        ),
        tuple(rows),
        (
            "Training: the peak of a run, as in the tables above. Serving: the weights of backbone, head and adapter "
            f"in memory when they predict in {terms.dtype}; batches and libraries come on top.",
            *([f"Not possible in a precision: {'; '.join(missing)}."] if missing else []),
        ),
    )


def _row(one: Forecast) -> tuple[str, ...]:
    return (
        one.title,
        one.terms.precision,
        size(one.peak),
        size(one.gpu_peak) if one.runs_on_gpu else NOTHING,
        NOTHING if one.serving_bytes is None else size(one.serving_bytes),
        "yes" if one.fits else "no",
    )
