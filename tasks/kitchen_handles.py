"""kitchen_handles: the kitchen with six kinds of handles in place of two.

What differs for a peg is how much play it has from side to side and from front to back: how far the hand moves before the door does, and how
far the door then comes. The motions are the same, and must do for handles that training never had.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor
from torch.nn.functional import one_hot

from metarl.tasks.kitchen import Kitchen
from metarl.tasks.parameters import Param
from metarl.tasks.task import Values


def _with_handles(param: Param) -> Param:
    if param.name != "handle":
        return param
    return replace(param, nominal="bar", choices=("bar", "vertical_bar", "knob", "recess"), ood_near=("button",), ood_far=("lever",))


class KitchenHandles(Kitchen):
    """As `kitchen`, but for the handles, which are told apart in the observation: behind a bar, upright or level, in a knob's cup, a recess, a button's dimple,
    a lever's eye.
    """

    name = "kitchen_handles"
    version = 1
    params = tuple(_with_handles(p) for p in Kitchen.params)
    observed = {**Kitchen.observed, "handle": 2 + 6}

    def _handle_kind(self, values: Values) -> Tensor:
        handle = self._param("handle")
        return one_hot(values["handle"].long(), len(handle.all_choices)).float()
