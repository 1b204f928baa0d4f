"""arm_slide_jaco: arm_slide with Kinova's Jaco, which strikes a third as fast: an object on a slippery table, and targets at a hand's width or two."""

from __future__ import annotations

from dataclasses import replace

from metarl.tasks.arm_slide import ArmSlide
from metarl.tasks.parameters import Param

# The fastest strike, 0.33 m/s, sends an object of friction 0.035 some 0.2 m far: that of plastic on a wet or waxed table, or of one with air holes.
_OTHER = {
    "friction": {"nominal": 0.025, "train": (0.018, 0.035), "ood_near": ((0.0145, 0.018), (0.035, 0.042)), "ood_far": ((0.01, 0.0145),)},
    "target_distance": {"nominal": 0.16, "train": (0.13, 0.19)},
}


def _with_other_ranges(param: Param) -> Param:
    return replace(param, **_OTHER.get(param.name, {}))  # type: ignore[arg-type]


class ArmSlideJaco(ArmSlide):
    """Reward of a shot: exp(-miss / 0.05 m), the miss being the distance of the resting object from the target."""

    name = "arm_slide_jaco"
    robot_name = "jaco"
    params = tuple(_with_other_ranges(p) for p in ArmSlide.params)
    place, ready, speeds = (0.55, 0.0), (0.55, -0.12, 0.03), (0.15, 0.33)
    approach = 1.2  # radially it is slower still
    worth, near = 0.05, 0.02
    impact = ((0.54, 0.34, 1.0, 1.32), (0.94, 0.68, 0.41, 1.18), (0.94, 0.68, 0.41, 1.18))
    decision_dt = 5.0  # s, strikes take longer
