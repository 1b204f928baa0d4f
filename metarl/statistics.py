"""Interquartile means with bootstrap confidence intervals.

Source: Agarwal et al. 2021, "Deep reinforcement learning at the edge of the statistical precipice", arXiv 2108.13264.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Estimate(NamedTuple):
    """A number and the confidence interval around it."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"


def iqm(x: Array, axis: int = -1) -> Array:
    """Interquartile mean: of the sorted values, the mean of the middle half; the two values on its edges count in part where n/4 is not whole.

    Args:
        x: any shape; n values along `axis`.
        axis: the axis that is averaged away.
    """
    x = np.sort(np.moveaxis(np.asarray(x, dtype=np.float64), axis, -1), -1)
    n = x.shape[-1]
    edges = np.clip(np.arange(n + 1), n / 4, 3 * n / 4)  # value i covers [i, i + 1] of the n; how much of it lies in the middle half
    return np.asarray((x * np.diff(edges)).sum(-1) / (n / 2))


def resample(num_seeds: int, num_tasks: int, num: int, seed: int = 0) -> NDArray[np.int64]:
    """Indices (num, S * M) of bootstrap samples of S seeds that were measured in the same M tasks; row s * M + m is seed s in task m.

    Both are drawn with replacement. All seeds of a sample meet the same drawn tasks: a hard task is hard for every seed, so that more
    seeds do not make more tasks.
    """
    rng = np.random.default_rng(seed)
    tasks = rng.integers(num_tasks, size=(num, 1, num_tasks))
    seeds = rng.integers(num_seeds, size=(num, num_seeds, 1))
    return np.asarray((seeds * num_tasks + tasks).reshape(num, -1))


def interval(statistic: Callable[[Array], Array], samples: Sequence[Array], confidence: float = 0.95, num: int = 2000, seed: int = 0) -> list[Estimate]:
    """Percentile bootstrap, over seeds and tasks, of a statistic of one or several measurements.

    Args:
        statistic: given (B, n, C), n = S * M seeds and tasks with C columns, returns (B, D): B bootstrap samples at once.
        samples: of each of S seeds, (M, C) in the same M tasks.
        confidence: of the interval.
        num: bootstrap samples.
        seed: of the draw.

    Returns:
        D estimates.
    """
    values = np.concatenate([np.asarray(s, dtype=np.float64) for s in samples])
    rows = resample(len(samples), len(samples[0]), num, seed)
    chunks = [statistic(values[part]) for part in np.array_split(rows, max(1, values[0].size * rows.size // 4_000_000))]
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(chunks), [tail, 1 - tail], axis=0)
    centre = statistic(values[None])[0]
    return [Estimate(float(c), float(a), float(b)) for c, a, b in zip(centre, low, high, strict=True)]
