"""FOMAML: MAML of first order, which takes the adapted parameters to move exactly as the meta-parameters do (Finn et al. 2017, section 5.2).

The outer gradient is then that of the adapted policies' surrogate, summed over tasks: no second derivative is taken, and actions before an
inner step get no credit for what is learnt from them.
"""

from __future__ import annotations

from metarl.algos.maml import MAML


class FOMAML(MAML):
    """See the module's docstring."""

    first_order = True


ALGORITHM = FOMAML
