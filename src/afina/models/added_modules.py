"""Modules that methods add to transformers' own: prompts, prefixes and bottleneck adapters.

A prompt is rows of the model's input, a prefix is keys and values of every attention: virtual tokens that stand before
every text and are trained, not read. A bottleneck is two small layers with a nonlinearity between, beside or behind a
module of a block. Each is a module of a fixed name, so that its parameters have names like any other. Knows where they
are in a model, no method.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Parameter
from torch.nn.functional import gelu, linear, relu

from afina.models.architectures import architecture_of, blocks_of
from afina.models.kernels.layer_changes import LayerChange
from afina.models.kernels.layout import Layout

PROMPT = "prompt"
"""Name of a `Prompt` in a body."""

PREFIX = "prefix"
"""Name of a `Prefix` in an attention."""


class Prompt(nn.Module):
    """Rows that stand before the embeddings of every text.

    weight  [K, width]
    """

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.weight = Parameter(rows)

    def __len__(self) -> int:
        return len(self.weight)


class Prefix(nn.Module):
    """Keys and values that stand before those of every text, in one attention. Keys are as after any rotation.

    key, value  [K, G, D] for G heads of keys, each of width D
    """

    def __init__(self, key: Tensor, value: Tensor) -> None:
        super().__init__()
        self.key, self.value = Parameter(key), Parameter(value)

    def __len__(self) -> int:
        return len(self.key)

    def columns(self) -> tuple[Tensor, Tensor]:
        """key, value as attention has them: [G, K, D]."""
        return self.key.transpose(0, 1), self.value.transpose(0, 1)


def prompt_of(body: nn.Module) -> Prompt | None:
    """That of a transformer without head, if it has one."""
    found = body._modules.get(PROMPT)
    return found if isinstance(found, Prompt) else None


def prefix_of(attention: nn.Module) -> Prefix | None:
    """That of an attention, if it has one."""
    found = attention._modules.get(PREFIX)
    return found if isinstance(found, Prefix) else None


def attentions(body: Any) -> Iterator[Any]:
    """Every attention of a transformer, from the first block to the last."""
    path = architecture_of(body).block.attention
    for block in blocks_of(body):
        yield block.get_submodule(path)


def layout_of(body: Any, bounds: Tensor) -> Layout:
    """That of the row which `body` is given for texts with these bounds."""
    prompt, prefix = prompt_of(body), prefix_of(next(attentions(body)))
    before = 0 if prefix is None else len(prefix)
    return Layout(bounds, 0, before) if prompt is None else Layout(bounds).grown(len(prompt), before)


@torch.no_grad()
def words(body: Any, count: int) -> Tensor:
    """Embeddings of so many tokens, drawn from the vocabulary by torch's generator: [count, width]."""
    table = body.get_input_embeddings()
    drawn = torch.randint(0, table.num_embeddings, (count,))
    found: Tensor = table(drawn.to(next(table.parameters()).device))
    return found


@torch.no_grad()
def activations(body: Any, rows: Tensor) -> list[tuple[Tensor, Tensor]]:
    """What each attention, from the first to the last, makes of a text of these embeddings [N, width] without dropout.

    Returns keys and values, each [N, G, D]; on the `meta` device without a computation.
    """
    if rows.device.type == "meta":
        shape = (len(rows), *_heads(body.config))
        return [(rows.new_empty(shape), rows.new_empty(shape)) for _ in attentions(body)]
    kept: dict[nn.Module, tuple[Tensor, Tensor]] = {}
    bounds = torch.tensor([0, len(rows)], dtype=torch.int32, device=rows.device)
    layout, training, entry = Layout(bounds), body.training, architecture_of(body)
    body.eval()(
        inputs_embeds=rows[None],
        position_ids=layout.positions[None] + entry.position_offset,
        use_cache=False,
        layout=layout,
        causal=entry.mask == "causal",
        keep=kept,
    )
    body.train(training)
    made = (kept[attention] for attention in attentions(body))
    return [(_by_token(key), _by_token(value)) for key, value in made]


def _by_token(states: Tensor) -> Tensor:
    """[1, G, N, D] -> [N, G, D]."""
    return states[0].transpose(0, 1).clone(memory_format=torch.contiguous_format)


def _heads(config: Any) -> tuple[int, int]:
    """How many heads of keys there are, and how wide each is."""
    heads = int(config.num_attention_heads)
    groups = getattr(config, "num_key_value_heads", None) or heads
    return int(groups), int(getattr(config, "head_dim", None) or config.hidden_size // heads)


BOTTLENECK = "bottleneck"
"""What it is called among the children of the module that it belongs to."""

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": gelu, "relu": relu}


class Bottleneck(nn.Module):
    """scale up(activation(down(x))), which is 0 at first: `up` starts at zero, `down` as torch draws it.

    width   of what goes in and comes out;  narrow  of what lies between
    """

    def __init__(self, width: int, narrow: int, activation: str, scale: float, device: torch.device) -> None:
        super().__init__()
        self.down = nn.Linear(width, narrow, device=device)
        self.up = nn.Linear(narrow, width, device=device)
        self.activation, self.scale = activation, scale
        nn.init.zeros_(self.down.bias)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """Any leading shape, width -> the same."""
        result: Tensor = self.up(ACTIVATIONS[self.activation](self.down(inputs)))
        return result if self.scale == 1 else result * self.scale


def behind(module: Any, plain: Callable[..., Any], *inputs: Any, **options: Any) -> Any:
    """A module, whose own forward is `plain`, then h + bottleneck(h) of its output; of several outputs, the first."""
    outputs = plain(*inputs, **options)
    hidden, *others = outputs if isinstance(outputs, tuple) else (outputs,)
    hidden = hidden + module.get_submodule(BOTTLENECK)(hidden)
    return (hidden, *others) if isinstance(outputs, tuple) else hidden


def beside(module: Any, plain: Callable[..., Any], inputs: Tensor) -> Any:
    """A module of one input, whose own forward is `plain`, and the bottleneck of the same input added."""
    return plain(inputs) + module.get_submodule(BOTTLENECK)(inputs)


@dataclass(frozen=True, eq=False)
class BottleneckChange(LayerChange):
    """What a bottleneck adds to a module's output. Weights and biases of its two layers, as `nn.Linear` has them.

    beside  whether it reads what the module was given, and not what comes out
    """

    down: Tensor
    down_bias: Tensor
    up: Tensor
    up_bias: Tensor
    activation: str
    scale: float
    beside: bool

    def leaving(self, inputs: Tensor | None, outputs: Tensor) -> None:
        """[N, width], both."""
        given = inputs if self.beside else outputs
        assert given is not None
        inner = ACTIVATIONS[self.activation](linear(given, self.down, self.down_bias))
        outputs.add_(linear(inner, self.up, self.up_bias), alpha=self.scale)
