"""Why something was not used: a short name that is counted, and a sentence for a person."""

from __future__ import annotations

from collections.abc import Iterable


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
