"""Front: what shows results and progress to whoever works in a notebook.

It stands above what there is to show, so who has results cannot import it; the library's door (`afina/__init__`) says
here where it is. Knows neither results nor a display.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

as_html: Callable[[Any], str | None] = lambda results: None  # noqa: E731 - replaced by the door
"""Results as a fragment of a page."""

make_watcher: Callable[[], Any] = lambda: None  # noqa: E731 - likewise
"""A watcher that suits where this process shows things; None where nobody has asked to be told."""

# What transformers' progress bars say in a kernel without widgets; afina shows none of them.
warnings.filterwarnings("ignore", message="IProgress not found")
