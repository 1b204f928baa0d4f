"""robust: domain randomisation without memory, the reference for what adapting is worth.

The same network and the same PPO as RL², trained on the same tasks, but its memory stays empty and it maximises the return of each episode:
one behaviour that is best on average over all tasks (Tobin et al. 2017; Peng et al. 2018).
"""

from __future__ import annotations

from metarl.algos.rl2 import RL2


class Robust(RL2):
    """See the module's docstring."""

    remembers = False


ALGORITHM = Robust
