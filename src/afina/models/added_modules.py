"""Modules that adaptation methods add to a transformers model: prompts, prefixes, bottlenecks and poolings.

A bottleneck is parallel to a module of a block, or after it. A readout replaces the pooling. Each added module has a
fixed name, so its parameters are saved like any other.
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
from afina.models.kernels.key_values import KeyValueCache
from afina.models.kernels.layer_changes import LayerChange
from afina.models.kernels.layout import Layout, Pooled
from afina.models.weights.unread import has_stand_ins

PROMPT = "prompt"

PREFIX = "prefix"

READOUT = "readout"


class Prompt(nn.Module):
    """The trained rows of prompt tuning, put before the embeddings of every text; `weight`: [K, width]."""

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.weight = Parameter(rows)

    def __len__(self) -> int:
        return len(self.weight)


class Prefix(nn.Module):
    """The trained keys and values [K, G, D] of prefix tuning in one attention, put before those of every text.

    The keys are stored as they are after the rotary embedding. `rows`: the embeddings [K, width] of the tokens whose
    keys and values the prefix starts with.
    """

    def __init__(self, key: Tensor, value: Tensor, rows: Tensor | None = None) -> None:
        super().__init__()
        self.key, self.value = Parameter(key), Parameter(value)
        self.rows = rows

    @torch.no_grad()
    def begin(self, key: Tensor, value: Tensor) -> None:
        """Set the first values, which were not known when the module was made."""
        self.key.copy_(key)
        self.value.copy_(value)

    def __len__(self) -> int:
        return len(self.key)

    def columns(self) -> tuple[Tensor, Tensor]:
        """Return the prefix's keys and values in the order of axes that the attention uses, each [G, K, D]."""
        return self.key.transpose(0, 1), self.value.transpose(0, 1)


class PoolingReadout(nn.Module):
    """Pools a text's hidden states in place of the family's pooling; only the head's last layer reads the result."""

    def __init__(self, settings: Pooled) -> None:
        super().__init__()
        self.settings = settings


def readout_of(body: nn.Module) -> Pooled | None:
    """Return the settings of the body's `PoolingReadout`; None if the body has the model family's own pooling."""
    found = body._modules.get(READOUT)
    return found.settings if isinstance(found, PoolingReadout) else None


def prompt_of(body: nn.Module) -> Prompt | None:
    """Return the prompt of a transformer without its head; None if no prompt was added."""
    found = body._modules.get(PROMPT)
    return found if isinstance(found, Prompt) else None


def prefix_of(attention: nn.Module) -> Prefix | None:
    """Return the prefix of an attention; None if no prefix was added."""
    found = attention._modules.get(PREFIX)
    return found if isinstance(found, Prefix) else None


def attentions(body: Any) -> Iterator[Any]:
    """Yield the attention modules of a transformer, from the first block to the last."""
    path = architecture_of(body).block.attention
    for block in blocks_of(body):
        yield block.get_submodule(path)


def layout_of(body: Any, bounds: Tensor) -> Layout:
    """Return the layout of a row of texts with these bounds, including the virtual tokens that `body` adds."""
    prompt, prefix = prompt_of(body), prefix_of(next(attentions(body)))
    before = 0 if prefix is None else len(prefix)
    made = Layout(bounds, 0, before) if prompt is None else Layout(bounds).grown(len(prompt), before)
    readout = readout_of(body)
    return made.pooling(architecture_of(body).pooling_of(body.config) if readout is None else readout.pooling)


@torch.no_grad()
def words(body: Any, count: int) -> Tensor:
    """Return the input embeddings of `count` random tokens [count, width], drawn by torch's global generator."""
    table = body.get_input_embeddings()
    drawn = torch.randint(0, table.num_embeddings, (count,))
    found: Tensor = table(drawn.to(next(table.parameters()).device))
    return found


@torch.no_grad()
def activations(body: Any, rows: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return keys and values [N, G, D] of each attention, without dropout, for a text given as embeddings [N, width].

    On the `meta` device only the shapes are right. If the weights are stand-ins (`weights.unread`), the result is NaN.
    """
    if rows.device.type == "meta" or has_stand_ins(body):
        shape = (len(rows), *key_heads(body.config))
        return [(rows.new_full(shape, torch.nan), rows.new_full(shape, torch.nan)) for _ in attentions(body)]
    kept: dict[nn.Module, tuple[Tensor, Tensor]] = {}
    bounds = torch.tensor([0, len(rows)], dtype=torch.int32, device=rows.device)
    layout, training, entry = Layout(bounds), body.training, architecture_of(body)
    body.eval()(
        inputs_embeds=rows[None],
        position_ids=layout.positions[None] + entry.position_offset(body.config),
        use_cache=False,
        layout=layout,
        causal=entry.mask == "causal",
        keep=kept,
    )
    body.train(training)
    made = (kept[attention] for attention in attentions(body))
    return [(_by_token(key), _by_token(value)) for key, value in made]


def _by_token(states: Tensor) -> Tensor:
    """Change the shape of keys or values from [1, G, N, D] to [N, G, D]."""
    return states[0].transpose(0, 1).clone(memory_format=torch.contiguous_format)


def key_heads(config: Any) -> tuple[int, int]:
    """Return the number of key heads of an attention, and the width of a head."""
    heads = int(config.num_attention_heads)
    groups = getattr(config, "num_key_value_heads", None) or heads
    return int(groups), int(getattr(config, "head_dim", None) or config.hidden_size // heads)


def key_value_cache(body: Any) -> KeyValueCache:
    """Return an empty cache for the keys and values of a transformer."""
    weight = next(body.parameters())
    return KeyValueCache(list(attentions(body)), *key_heads(body.config), weight.dtype, weight.device)


BOTTLENECK = "bottleneck"
"""Names of the added modules: among the children of a body (prompt, readout), of an attention (prefix), and of the
module whose input or output a bottleneck changes.
"""

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": gelu, "relu": relu}


class Bottleneck(nn.Module):
    """A bottleneck: scale * up(activation(down(x))), which is 0 before training because `up` starts at zero."""

    def __init__(self, width: int, narrow: int, activation: str, scale: float, device: torch.device) -> None:
        super().__init__()
        self.down = nn.Linear(width, narrow, device=device)
        self.up = nn.Linear(narrow, width, device=device)
        self.activation, self.scale = activation, scale
        nn.init.zeros_(self.down.bias)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, inputs: Tensor) -> Tensor:
        result: Tensor = self.up(ACTIVATIONS[self.activation](self.down(inputs)))
        return result if self.scale == 1 else result * self.scale


def behind(module: Any, plain: Callable[..., Any], *inputs: Any, **options: Any) -> Any:
    """Compute h + bottleneck(h) for the output h of `plain`, the module's own forward (of a tuple: its first item)."""
    outputs = plain(*inputs, **options)
    hidden, *others = outputs if isinstance(outputs, tuple) else (outputs,)
    hidden = hidden + module.get_submodule(BOTTLENECK)(hidden)
    return (hidden, *others) if isinstance(outputs, tuple) else hidden


def beside(module: Any, plain: Callable[..., Any], *inputs: Tensor) -> Any:
    """Compute plain(inputs) + bottleneck(inputs), where `plain` is the module's own forward.

    BERT's `module` is the last of the MLP, which adds its result to the MLP's input: `beside` adds the bottleneck's
    output to that input.
    """
    *inner, read = inputs
    added = module.get_submodule(BOTTLENECK)(read)
    return plain(*inner, read + added) if inner else plain(read) + added


@dataclass(frozen=True, eq=False)
class BottleneckChange(LayerChange):
    """Adds a bottleneck's output to the output of a module in a mixed batch.

    `beside`: the bottleneck reads the module's input, otherwise its output.
    """

    down: Tensor
    down_bias: Tensor
    up: Tensor
    up_bias: Tensor
    activation: str
    scale: float
    beside: bool

    def leaving(self, inputs: Tensor | None, outputs: Tensor) -> None:
        """Add the bottleneck's output to `outputs` [N, width] in place; `inputs` have the same shape."""
        given = inputs if self.beside else outputs
        assert given is not None
        inner = ACTIVATIONS[self.activation](linear(given, self.down, self.down_bias))
        outputs.add_(linear(inner, self.up, self.up_bias), alpha=self.scale)
