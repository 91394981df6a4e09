"""Products of a frozen linear layer in int8 beside the type that training uses, by size of the layer and rows.

    python benchmarks/int8_layers.py                           a minute with one thread (OMP_NUM_THREADS=1)
    python benchmarks/int8_layers.py --sizes 576x1536 --rows 512,2048

A size is INPUTSxOUTPUTS of a layer. For each size and number of rows (tokens), four products take turns in one process:
forward and for the gradients of the inputs, each in int8 and in the dtype of `train.dtype` auto (bfloat16 in oneDNN's
layout, or float32). The quantising of the rows is a part of the int8 products, and is timed apart too. Times are
medians of the processor time of this thread, so a busy machine changes them little; with more threads, `--clock` takes
the clock instead. The last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

import machine
import tables
from afina import allocator, meter
from afina import device as devices
from afina.models.kernels import int8_training
from afina.models.kernels.int8_training import Int8ProductsWeight
from afina.models.kernels.linear import FrozenWeight, PackedWeight, PlainWeight

CPU = torch.device("cpu")
SIZES = (
    *("576x576", "576x1536", "1536x576", "768x768", "768x2304", "768x3072", "3072x768"),
    *("1536x1536", "2048x2048", "2048x8192", "3072x3072"),
)
"""Layers of `embedded` (576 and 1,536 wide) and of GPT-2 small (768 and 3,072), and of larger models."""

ROWS = (256, 512, 1024, 2048)


@dataclass
class Stopwatch:
    """Seconds of all calls that were watched."""

    seconds: float = 0.0


@contextmanager
def timed_quantising(clock: Callable[[], float] = meter.now) -> Iterator[Stopwatch]:
    """Add up the seconds in which `int8_training` quantises rows."""
    watch, plain = Stopwatch(), int8_training.quantize_rows

    def timed(rows: Tensor) -> int8_training.Codes:
        start = clock()
        made = plain(rows)
        watch.seconds += clock() - start
        return made

    int8_training.quantize_rows = timed
    try:
        yield watch
    finally:
        int8_training.quantize_rows = plain


@dataclass(frozen=True)
class Layer:
    """Medians of the seconds of a layer's products.

    forward, backward               in the plain type: bfloat16 or float32
    int8_forward, int8_backward     in int8, with quantising
    quantised, quantised_backward   the share of these that is quantising
    error, error_backward           of the int8 products, relative to those of the same weight in float32
    """

    inputs: int
    outputs: int
    rows: int
    forward: float
    int8_forward: float
    quantised: float
    backward: float
    int8_backward: float
    quantised_backward: float
    error: float
    error_backward: float


def measure(inputs: int, outputs: int, rows: int, repeats: int, clock: Callable[[], float]) -> Layer:
    """Time the products of one layer in turns."""
    generator = torch.Generator().manual_seed(0)
    dtype = devices.precision("auto", CPU)
    weight = torch.randn(outputs, inputs, generator=generator).mul_(inputs**-0.5)
    given = torch.randn(rows, inputs, generator=generator)
    grads = torch.randn(rows, outputs, generator=generator)
    own = PlainWeight(weight.to(dtype))
    plain: FrozenWeight = PackedWeight(own.weight) if dtype == torch.bfloat16 else own
    lowered = Int8ProductsWeight.of(own)
    into, back = given.to(dtype), grads.to(dtype)
    turns = cycle([into, into.clone()])  # two tensors, because the codes of the last one are kept
    products: dict[str, Callable[[], Tensor]] = {
        "forward": lambda: plain.product(into),
        "int8_forward": lambda: lowered.product(next(turns)),
        "backward": lambda: plain.transposed_product(back),
        "int8_backward": lambda: lowered.transposed_product(back),
    }
    errors = [
        float((found.float() - expected).norm() / expected.norm())
        for found, expected in (
            (products["int8_forward"](), given @ weight.t()),
            (products["int8_backward"](), grads @ weight),
        )
    ]
    seconds: dict[str, list[float]] = {name: [] for name in products}
    shares: dict[str, list[float]] = {name: [] for name in products}
    for repeat in range(repeats + 1):
        for name, product in products.items():
            with timed_quantising(clock) as watch:
                start = clock()
                product()
                spent = clock() - start
            if repeat:
                seconds[name].append(spent)
                shares[name].append(watch.seconds / spent)
    return Layer(
        inputs,
        outputs,
        rows,
        **{name: median(times) for name, times in seconds.items()},
        quantised=median(shares["int8_forward"]),
        quantised_backward=median(shares["int8_backward"]),
        error=errors[0],
        error_backward=errors[1],
    )


def report(found: list[Layer]) -> str:
    """The table as Markdown."""
    header = (
        *("layer", "rows", "forward: ms", "int8: ms", "ratio", "of it quantising"),
        *("gradients: ms", "int8: ms", "ratio", "of it quantising"),
    )
    rows = [
        (
            f"{one.inputs:,} to {one.outputs:,}",
            f"{one.rows:,}",
            f"{1000 * one.forward:.2f}",
            f"{1000 * one.int8_forward:.2f}",
            tables.ratio(one.forward / one.int8_forward),
            tables.ratio(one.quantised),
            f"{1000 * one.backward:.2f}",
            f"{1000 * one.int8_backward:.2f}",
            tables.ratio(one.backward / one.int8_backward),
            tables.ratio(one.quantised_backward),
        )
        for one in found
    ]
    worst = max(max(one.error, one.error_backward) for one in found)
    return f"{tables.table(header, rows)}\n\nError of int8, at most: {100 * worst:.2f} %."


def main() -> None:
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=lambda text: text.split(","), default=list(SIZES), help="INPUTSxOUTPUTS, ...")
    parser.add_argument("--rows", type=lambda text: [int(one) for one in text.split(",")], default=list(ROWS))
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--clock", action="store_true", help="the clock in place of the thread's processor time")
    parser.add_argument("--markdown", type=Path, help="write the table and the machine to this file")
    options = parser.parse_args()
    if (reason := devices.why_no_int8(CPU)) is not None:
        parser.error(reason)
    allocator.keep_kernels(allocator.MANY)  # as the process of a run has it
    clock = meter.now if options.clock else time.thread_time
    found = []
    for size in options.sizes:
        inputs, outputs = map(int, size.split("x"))
        found += [measure(inputs, outputs, rows, options.repeats, clock) for rows in options.rows]
    dtype = str(devices.precision("auto", CPU)).removeprefix("torch.")
    shown = "\n".join([*machine.describe(), f"- beside int8: {dtype}", "", report(found)])
    print(shown)
    if options.markdown:
        options.markdown.write_text(shown + "\n", encoding="utf-8")
    print(json.dumps({"dtype": dtype, "threads": torch.get_num_threads(), "layers": [vars(one) for one in found]}))


if __name__ == "__main__":
    main()
