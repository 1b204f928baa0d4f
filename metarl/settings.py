"""Settings that no algorithm can work with are refused by name, before anything is made."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

AT_MOST_ONE = ("discount", "gae_lambda", "shrink", "teacher_part", "noise_correlation", "target_rate", "popart_rate", "blind", "blind_until")
ABOVE_ZERO = ("_std", "learning_rate", "_lr", "max_kl", "_scale", "gradient_norm", "clip")  # how such a name ends


def check(config: Any) -> None:
    """Whole numbers count something and are at least 1 (passes over data at least 0: that part is not trained); other numbers are finite and not negative.

    Args:
        config: an instance of an algorithm's Config.

    Raises:
        ValueError: a setting is out of its range; all of them are named.
    """
    wrong = [f"{f.name} is {getattr(config, f.name)!r}, expected {said}" for f in fields(config) if (said := _expected(f.name, getattr(config, f.name)))]
    if wrong:
        raise ValueError(f"{type(config).__name__}: " + "; ".join(wrong))


def _expected(name: str, value: Any) -> str:
    """What should have been there; "" if all is well."""
    if isinstance(value, tuple):
        return "" if all(isinstance(v, int) and v >= 1 for v in value) else "whole numbers of at least 1"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return ""
    if isinstance(value, int):
        least = 0 if name.endswith(("updates", "epochs")) else 1
        return "" if value >= least else f"at least {least}"
    if not math.isfinite(value) or value < 0:
        return "a finite number that is not negative"
    if name in AT_MOST_ONE and value > 1:
        return "at most 1"
    return "a number above 0" if value == 0 and name.endswith(ABOVE_ZERO) else ""
