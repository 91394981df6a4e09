"""The optional facets of a method: how it is described, how it is served beside others, how peft and others read it.

Each is a base class whose attributes have defaults, so a method overrides what differs. Knows no method; starts
without torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from torch import Tensor

    from afina.models.backbone import Backbone
    from afina.models.rider import Rider


class Description:
    """What tables, tuning and recommendations read of a method. Every method states the first three.

    name           key in METHODS
    title          how tables call it
    summary        what it does, in a line
    learning_rate  used where none is given; LoRA's and PreLayer's are the quickstart's, see docs/LOG.md
    search         values that tuning may give a hyperparameter, beside a learning rate from a tenth of the default to
                   ten times it; None where there is nothing to tune
    practical      whether a recommendation considers it
    """

    name: ClassVar[str]
    title: ClassVar[str]
    summary: ClassVar[str]
    learning_rate: ClassVar[float] = 2e-4
    search: ClassVar[Mapping[str, tuple[Any, ...]] | None] = {}
    practical: ClassVar[bool] = True


STATED = ("name", "title", "summary")
"""What of a description has no default."""


class Serving:
    """How a trained adapter computes beside others; by default with weights of its own."""

    def rider(self, model: Any, state: Mapping[str, Tensor], base: Any) -> Rider | None:
        """How a saved state takes part in a row of several adapters; None: it does not, and needs weights of its own.

        model  attached, on the `meta` device;  state  of such a model;  base  the frozen one, without the method
        What the rider does not name among what it has `heard` is taken for a reason to let it have its own weights.
        """
        return None

    def merged(self, model: Any) -> Any:
        """The attached model without what stands beside the backbone's weights, folded into them. Changes `model`.

        What cannot be folded is still there afterwards. Raises InvalidStudy where that cannot even be tried.
        """
        return model


class Format:
    """Which files hold a saved state, and what other libraries are told; by default afina's own, and nothing.

    tensor_file   file that `state` is saved to; named by the library that reads it
    said_by_peft  whether peft's settings can say what the method trains, beside a wrap: see `in_peft`
    """

    tensor_file: ClassVar[str] = "delta.safetensors"
    said_by_peft: ClassVar[bool] = False

    def in_peft(self, model: Any) -> Mapping[str, Any]:
        """The method in peft's settings: `bias`, or a list of `modules_to_save`. Asked where `said_by_peft`."""
        return {}

    def accompany(self, model: Any, backbone: Backbone, directory: Path) -> None:
        """Write the small files with which other libraries read the saved state."""
