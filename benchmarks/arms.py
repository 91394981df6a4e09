"""The arms of `train_step.py`: each is a model that is ready to train, and whose single steps can be timed."""

from __future__ import annotations

from collections.abc import Sequence

from afina import Backbone
from afina import device as devices
from afina.methods import make
from afina.models.backbone_spec import FLOAT, PRECISIONS
from afina.training.settings import Training
from arm import CPU, Arm
from packed_arm import PackedArm

ARMS = {
    "A": "transformers Trainer + peft, the paper's recipe: padded to 128, fp32",
    "B1": "the same, padded to each batch's longest text, bf16 autocast where the CPU has it; A's batches",
    "B2": 'B1 with train_sampling_strategy="group_by_length": batches of its own',
    "C": "afina, fp32; A's batches",
    "D": "afina as shipped (train.dtype auto); A's batches",
}
ON_PRECISIONS = {f"D-{name}": name for name, precision in PRECISIONS.items() if precision.hold is not None}
"""Arms of `quantised.py` and `train_step.py`: the precision of the frozen weights, by arm."""
ARMS |= {arm: f"D with the frozen weights in {name} (train.precision)" for arm, name in ON_PRECISIONS.items()}

IN_INT8 = "D-products"
ARMS |= {IN_INT8: "D with products of frozen weights in int8 (train.products)"}

DEFAULT = ("A", "B1", "B2", "C", "D", IN_INT8)
HELD = frozenset({"lora"})
"""Methods of the benchmark that leave the weights of linear layers frozen."""


def suits(name: str, method_name: str) -> bool:
    """Whether the method can be trained in this arm, on this processor."""
    if name == IN_INT8:
        return make(method_name).multiplies_frozen and devices.why_no_int8(CPU) is None
    return name not in ON_PRECISIONS or method_name in HELD


def build(name: str, method_name: str, backbone: Backbone, label_names: Sequence[str], steps: int) -> Arm:
    """The arm of that name. steps: in the whole training, the horizon of the decay."""
    method = make(method_name).for_family(backbone.family)
    if name in ("C", "D", IN_INT8, *ON_PRECISIONS):
        setting = Training(dtype="float32") if name == "C" else Training(precision=ON_PRECISIONS.get(name, FLOAT))
        setting = Training(products="int8") if name == IN_INT8 else setting
        return PackedArm(backbone, label_names, method, setting, steps)
    from padded_arm import TrainerArm  # here, so that afina's memory is measured without it

    return TrainerArm(backbone, label_names, method, Training(), steps, paper=name == "A")
