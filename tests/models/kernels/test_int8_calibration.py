"""Which layers compute in int8: factors of typical inputs, and the effect of a layer's error on the model's results."""

from __future__ import annotations

import pytest
import torch
from test_int8_products import drawn, has_int8, made
from torch import Tensor, nn

from afina.models.kernels import int8_calibration as calibration
from afina.models.kernels.int8_calibration import int8_factors, smoothing
from afina.models.kernels.int8_products import DynamicInt8Weight

BOUNDS = torch.tensor([0, 5, 12, 32])
"""Three texts of 32 tokens."""


@pytest.fixture(autouse=True)
def _int8() -> None:
    if not has_int8():
        pytest.skip("the processor has no instructions for int8")


def pooled(rows: Tensor) -> Tensor:
    return torch.stack([part.mean(0) for part in rows.split(BOUNDS.diff().tolist())])


class Net(nn.Module):
    """Two layers that read one tensor, one that reads both, and one after the pooling."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two = nn.Linear(64, 48), nn.Linear(64, 48)
        self.three, self.pooler = nn.Linear(48, 64), nn.Linear(64, 16)
        self.inputs = drawn(32, 64)

    def forward(self) -> Tensor:
        inner = torch.tanh(self.one(self.inputs)) * self.two(self.inputs)
        found: Tensor = self.pooler(torch.relu(pooled(self.three(inner))))
        return found

    @property
    def layers(self) -> dict[str, nn.Module]:
        return {name: layer for name, layer in self.named_modules() if isinstance(layer, nn.Linear)}


def test_smoothing_keeps_what_outlying_channels_would_hide() -> None:
    inputs, weight = drawn(64, 256), drawn(64, 256, seed=1)
    inputs[:, :4] *= 30  # as in language models: the same few channels for every token
    exact = inputs @ weight.t()
    rough, smooth = made(weight), made(weight, smoothing(inputs, weight))
    errors = [float((each.product(inputs) - exact).norm() / exact.norm()) for each in (rough, smooth)]
    assert errors[1] < errors[0] / 3


def test_a_channel_that_is_silent_in_typical_inputs_may_speak_later() -> None:
    inputs, weight = drawn(64, 256), drawn(64, 256, seed=1)
    silent = inputs.clone()
    silent[:, ::2] = 0
    held, exact = made(weight, smoothing(silent, weight)), inputs @ weight.t()
    assert float((held.product(inputs) - exact).norm() / exact.norm()) < 0.02


def test_a_layer_that_would_lose_too_much_gets_no_factors() -> None:
    calm, wild = nn.Linear(64, 32), nn.Linear(64, 32)
    inputs, spikes = drawn(32, 64), drawn(32, 64, seed=1)
    spikes[torch.arange(32), 2 * torch.arange(32)] = 300  # in other channels for each token, which no factor mends,
    spikes[torch.arange(32), 2 * torch.arange(32) + 1] = 300
    wild.weight.data[:, 1::2] = -wild.weight.data[:, ::2]  # and without effect on the results
    layers = {"calm": calm, "wild": wild, "idle": nn.Linear(2, 2)}
    found = int8_factors(layers, lambda: pooled(calm(inputs) + wild(spikes)), BOUNDS)
    assert found.keys() == {"calm"}
    assert torch.equal(found["calm"], smoothing(inputs, calm.weight.detach()))
    assert not calm._forward_hooks, "the hooks are gone"


def test_layers_that_read_one_tensor_have_the_same_factors() -> None:
    net = Net()
    found = int8_factors(net.layers, net, BOUNDS)
    assert found.keys() == net.layers.keys()
    assert found["one"] is found["two"]
    assert torch.equal(found["one"], smoothing(net.inputs, net.one.weight.detach(), net.two.weight.detach()))
    with torch.no_grad():
        inner = torch.tanh(net.one(net.inputs)) * net.two(net.inputs)
    assert torch.equal(found["three"], smoothing(inner, net.three.weight.detach()))


def test_an_effect_is_the_change_of_the_results_by_one_layer_in_int8(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "DIRECTIONS", 400)
    effects: dict[str, float] = {}

    def keep(found: dict[str, float], sizes: dict[str, int]) -> set[str]:
        effects.update(found)
        return set()

    monkeypatch.setattr(calibration, "_most_harmful", keep)
    net = Net()
    factors = int8_factors(net.layers, net, BOUNDS)
    with torch.no_grad():
        exact = net()
        for name, layer in net.layers.items():
            held = DynamicInt8Weight(layer.weight, factors[name], layer.weight)
            hook = layer.register_forward_hook(lambda own, given, _, held=held: held.product(given[0], own.bias))  # type: ignore[misc]
            change = float(((net() - exact).norm(dim=1) / exact.norm(dim=1)).square().mean())
            hook.remove()
            assert effects[name] == pytest.approx(change, rel=0.3)


def test_what_costs_little_and_harms_most_stays_out_of_int8() -> None:
    sizes = {"large": 700, "small": 40, "tiny": 10, "other": 250}
    chosen = calibration._most_harmful
    assert chosen(dict.fromkeys(sizes, 1e-5), sizes) == set(), "together they change little"
    assert chosen({"large": 9e-3, "small": 1e-3, "tiny": 1e-5, "other": 1e-3}, sizes) == {"small", "tiny"}
    assert chosen({"large": 1e-4, "small": 1e-5, "tiny": 5e-4, "other": 1e-5}, sizes) == {"tiny"}, "the rest is enough"
