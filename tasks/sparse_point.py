"""The sparse point robot of PEARL (Rakelly et al. 2019, section 6.3; `rlkit/envs/point_robot.py` and `configs/sparse-point-robot.json` of its code).

VariBAD's version of it, with any goal on the half circle and five times as much time, is `point_navigation_semicircle`.
"""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from metarl.tasks.point_navigation import PointNavigationSemicircle
from metarl.tasks.task import Readings


def _published_angles() -> tuple[tuple[float, ...], ...]:
    """PEARL's 100 goals in its order: evenly spaced angles, shuffled by NumPy's old generator with seed 1337."""
    angles = np.linspace(0.0, math.pi, 100)
    np.random.RandomState(1337).shuffle(angles)
    return tuple((float(angle),) for angle in angles)


_ANGLES = _published_angles()


class SparsePointPearl(PointNavigationSemicircle):
    """Goal on the upper unit half circle, one of PEARL's 80 for training and 20 others for tests; 20 episodes of 20 steps of at most 0.1.

    The reward is the sparse one, 1 - distance within 0.2 of the goal and else 0, which PEARL's context holds and its evaluation counts; its
    actor and critic, in training, were told the negative distance instead.
    """

    name = "sparse_point_pearl"
    published = {"train": _ANGLES[:80], "iid": _ANGLES[80:]}
    horizon = 20
    episodes_per_trial = 20

    def training_reward(self, readings: Readings) -> Tensor:
        """The negative distance."""
        return -self.error(readings)
