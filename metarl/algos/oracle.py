"""oracle: RL² told the task's parameters, the reference for what could be reached.

It keeps its memory, or an adapting policy would beat it wherever something besides the parameters is hidden (noise, gusts). It never
runs on a robot: nobody tells a robot its task.
"""

from __future__ import annotations

from metarl.algos.rl2 import RL2


class Oracle(RL2):
    """See the module's docstring."""

    privileged = True


ALGORITHM = Oracle
