"""The tables of `afina plan`: forecast costs of each method, also for several precisions of the frozen weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from afina.models.backbone_spec import FLOAT
from afina.report.formatting import NOTHING, count, number_of_texts, seconds, size
from afina.report.tables import Table, columns_of
from afina.studies.planning.forecast import Forecast, Terms, shared_terms

PRICE = (
    "Each frozen weight is then rounded to {bits} bits, so results can differ a little; the adapter is for a backbone "
    "in this precision only."
)

_BITS = {"int8": 8, "nf4": 4}


def forecast_table(forecasts: Sequence[Forecast]) -> Table:
    """Return a table of the forecast costs of each method on a CPU, from at least one forecast."""
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
            _yes(one.fits),
        )
        for one in forecasts
    )
    headings = ("Trainable", "State", "Activations", "Peak", "On disk", *["Training (s)"] * timed, "Fits")
    return Table(
        f"Plan for {terms.backbone} on a CPU, training in {terms.computing}",
        columns_of(["Method"], headings),
        rows,
        (
            f"What fits in {size(terms.memory)} of main memory: {_titles([o.title for o in forecasts if o.fits])}.",
            *_offers(forecasts, on_gpu=False),
            _dtype_note(terms),
            *([_PRODUCTS_NOTE.format(products=terms.products)] if terms.products != FLOAT else []),
            *_activation_notes(forecasts, terms),
            f"Peak: every tensor of a run at its height, and {size(terms.process)} for Python and the libraries."
            f"{_IN_BFLOAT16 * (terms.dtype == 'bfloat16' and terms.products == FLOAT)}",
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


def _pairs_notes(forecasts: Sequence[Forecast]) -> Iterator[str]:
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
    terms = shared_terms(forecasts)
    rows = tuple(
        (
            one.title,
            size(one.allocated_end),
            _activations(one),
            size(one.gpu_evaluation),
            size(one.gpu_peak),
            _yes(one.fits_gpu),
        )
        for one in forecasts
    )
    if terms.gpu is None:
        fits = "There is no GPU here; `--memory` says how much another machine's has."
    else:
        fits = f"What fits in {size(terms.gpu)} of GPU memory: {_titles([o.title for o in forecasts if o.fits_gpu])}."
    return Table(
        f"Estimate for {terms.backbone} on a GPU, training in {terms.computing}",
        columns_of(["Method"], ["State", "Activations", "Evaluation", "Peak", "Fits"]),
        rows,
        (
            fits,
            *_offers(forecasts, on_gpu=True),
            "Peak: 1.1 times the larger of training (state and activations) and evaluation. The tenth is for CUDA's "
            "context and fragmentation.",
            "Evaluation: the tensors of the evaluation in float32, which follows the training.",
        ),
    )


def _activations(one: Forecast) -> str:
    return NOTHING if one.activation_bytes is None else size(one.activation_bytes)


def _dtype_note(terms: Terms) -> str:
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


def _offers(forecasts: Sequence[Forecast], *, on_gpu: bool) -> Iterator[str]:
    """Yield notes on the ways to train methods that do not fit in memory: another precision, or several devices."""
    lacking = [one for one in forecasts if (one.fits_gpu is False if on_gpu else not one.fits)]
    by_precision: dict[str, list[str]] = {}
    on_several: list[str] = []
    for one in lacking:
        for other in _fitting(one, on_gpu=on_gpu):
            needed = size(other.gpu_peak if on_gpu else other.peak)
            if other.terms.devices == 1:
                by_precision.setdefault(other.terms.precision, []).append(f"{one.title} ({needed})")
            else:
                on_several.append(f"{one.title} ({other.terms.way}: {needed} each)")
    for precision, named in by_precision.items():
        price = PRICE.format(bits=_BITS[precision])
        yield f"With `--precision {precision}`, these fit too: {', '.join(named)}. {price}"
    if on_several:
        yield f"On several devices, each with that memory, these fit too: {', '.join(on_several)}."
    asked = [one for one in lacking if one.on_devices]
    if asked and not on_several:
        yield f"On {asked[0].on_devices[0].terms.devices} devices, no further method fits."
    elif lacking and not asked:
        yield "`--devices 8` says how many devices, up to 8, would fit the others."


def _fitting(one: Forecast, *, on_gpu: bool) -> Iterator[Forecast]:
    """Yield the alternatives that fit on a GPU or a CPU; of those on several devices, that with the fewest."""
    found: dict[tuple[str, bool, bool], Forecast] = {}
    for other in one.alternatives:
        terms = other.terms
        if other.fits_gpu if on_gpu else other.fits:
            way = terms.precision, terms.devices > 1, terms.sharded
            found[way] = min(found.get(way, other), other, key=lambda each: each.terms.devices)
    yield from found.values()


def devices_table(forecasts: Sequence[Forecast], *, on_gpu: bool) -> Table:
    """Return a table of the memory of each device that trains together, from forecasts with `on_devices`."""
    every = [other for one in forecasts for other in one.on_devices]
    terms = shared_terms(every)
    return Table(
        f"{'Estimate' if on_gpu else 'Plan'} for {terms.backbone} on each of {terms.devices} "
        f"{'GPUs' if on_gpu else 'CPUs'}, training in {terms.computing}",
        columns_of(["Method", "Backbone"], ["State", "Activations", "Peak", "Fits"]),
        tuple(
            (
                one.title,
                "sharded" if one.terms.sharded else "whole",
                size(one.allocated_end if on_gpu else one.state_bytes),
                _activations(one),
                size(one.gpu_peak if on_gpu else one.peak),
                _yes(one.fits_gpu if on_gpu else one.fits),
            )
            for one in every
        ),
        () if on_gpu else tuple(_device_notes(terms)),
    )


def _device_notes(terms: Terms) -> Iterator[str]:
    yield f"Each device has {size(terms.memory)} of memory. Processes on one machine share its main memory."
    yield (
        "Whole: each device has all weights of the backbone, and computes its share of each batch (data parallel). "
        "Sharded: each device also keeps only its part of the backbone's weights."
    )
    yield (
        f"The largest part of a batch for a device: {terms.texts:,} texts, {terms.tokens:,} tokens, "
        f"{terms.longest:,} in the longest text."
    )
    yield "The time of a training on several devices is not forecast, because it was not measured."


def _yes(fits: bool | None) -> str:
    return NOTHING if fits is None else "yes" if fits else "no"


def precision_table(plans: Sequence[Sequence[Forecast]]) -> Table:
    """Return a table by method and precision; each of `plans` has the forecasts of one backbone in one precision."""
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
        columns_of(["Method", "Precision"], ["Training, CPU", "Training, GPU", "Serving", "Fits"]),
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
        _yes(one.fits),
    )
