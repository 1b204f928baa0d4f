"""Proximal policy optimisation: the clipped losses (Schulman et al. 2017, equation 7), as pure functions."""

from __future__ import annotations

import torch
from torch import Tensor

from metarl.returns import masked_mean


def clipped_surrogate(log_prob: Tensor, old_log_prob: Tensor, advantage: Tensor, mask: Tensor, clip: float) -> Tensor:
    """Negative clipped surrogate objective, to be minimised; all arguments (...), scalar result."""
    ratio = (log_prob - old_log_prob).exp()
    return -masked_mean(torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage), mask)


def approximate_kl(log_prob: Tensor, old_log_prob: Tensor, mask: Tensor) -> Tensor:
    """Low-variance estimate of KL(old || new) from actions of the old policy: mean of r - 1 - log r."""
    log_ratio = log_prob - old_log_prob
    return masked_mean(log_ratio.exp() - 1 - log_ratio, mask)
