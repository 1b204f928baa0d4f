"""Why something was not used: a short name that is counted, and a sentence for a person."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


class Rejected(ValueError):
    """Something arrived that must not be used.

    Args:
        reason: short name, e.g. "not_finite"; nodes count and publish rejections by it.
        text: what was found and what was expected.
    """

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(f"{reason}: {text}")
        self.reason = reason


class RejectedAction(Rejected):
    """The adapter itself decided what must not be used: nothing better is to be expected of it."""


def check_names(kind: str, found: Iterable[str], expected: Iterable[str]) -> None:
    """Refuse where names of `expected` are missing.

    Raises:
        Rejected: missing_{kind}.
    """
    found = list(found)
    missing = [name for name in expected if name not in found]
    if missing:
        raise Rejected(f"missing_{kind}", f"{', '.join(missing)} not among {', '.join(found) or 'nothing'}")


def all_finite(value: np.ndarray[Any, Any] | Tensor) -> bool:
    """Whether no number is NaN or infinite: for as few as a robot's readings or commands hold, several times as quick as numpy or torch."""
    return all(map(math.isfinite, value.ravel().tolist()))
