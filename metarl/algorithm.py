"""The interface of all algorithms: how to learn to adapt (`MetaRLAlgorithm`), and what has been understood of a task so far (`Adapter`)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self, runtime_checkable

import torch
from torch import Tensor, nn

from metarl import settings
from metarl.rollout import Rollout
from metarl.tasks.batched_env import Step
from metarl.tasks.parameters import Param
from metarl.tasks.task import EnvSpec

if TYPE_CHECKING:
    from metarl.experience import Experience


FAR = 3.0  # standard deviations from the mean of a Gaussian at which hardly anything lies


class Adapter(Protocol):
    """What M x R learners have understood of their tasks so far.

    Always used like this, in training, evaluation and on the robot:

    adapter.reset()                              # new tasks: back to the meta-learned prior
    for episode in range(K):
        obs = env.reset()
        for _ in range(H):
            step = env.step(adapter.act(obs))    # bounded time
            adapter.observe(step)                # bounded time
            obs = step.next_obs
        adapter.adapt()                          # may be slow: the robots are at rest
    """

    def reset(self) -> None:
        """Forget everything of the task: back to the meta-learned prior."""

    def act(self, obs: Tensor, explore: bool = True) -> Tensor:
        """Actions (M, R, A) for observations (M, R, O); the mean or likeliest one where `explore` is False. Changes nothing of what is understood."""
        ...

    def observe(self, step: Step) -> None:
        """Take in one decision. Robots whose step is not `valid` change nothing."""

    def adapt(self) -> None:
        """An episode has ended."""


@runtime_checkable
class Accountable(Protocol):
    """An Adapter that can say of what it learned at the end of an episode whether that was for the better, before anything is done by it."""

    def progress(self, before: Adapter) -> float:
        """How much what `adapt` climbs has grown, on the decisions that it learned from; `before` is this adapter as it was when the episode ended."""
        ...


@runtime_checkable
class Measurable(Adapter, Protocol):
    """An Adapter that knows how far what it has understood has gone, so that a robot can refuse what has gone too far.

    Each kind of state has a measure of its own, in which 1 is about as far as such a state goes by its nature:

    - parameters of a policy: the change of a layer, relative to the layer. At 1 nothing of what was meta-learned need be left in it; with relative changes
      r_l the function that the layers make together changes by no more than prod (1 + r_l) - 1 (Bernstein et al. 2020, 2002.03432).
    - a memory: the root mean square of its units' change, over the range in which they move: a GRU's, and what gates let through, is 1; of two vectors
      that a layer norm has made, the farthest apart are opposite, 2.
    - a posterior over a latent: root mean square in standard deviations, over three of these: those of the prior, or of the beliefs that training has seen.
    """

    def distance(self, prior: Self) -> float:
        """Of the learner that has gone farthest; `prior` is this adapter after `reset`."""
        ...


@runtime_checkable
class Believing(Protocol):
    """An Adapter that takes its task to be a Gaussian over a latent, and can tell which."""

    def believed(self) -> Tensor:
        """(M, R, 2 L) after all that was observed: the mean, then the standard deviation."""
        ...


class Privileged(Protocol):
    """An Adapter that must be told the task: the oracle, which is a reference and never runs on a robot."""

    def tell(self, values: Tensor) -> None:
        """The tasks' parameters (M, P) as `TaskBatch.normalised` gives them; after `reset`."""


class MetaRLAlgorithm(ABC):
    """One algorithm: its networks, its adapter, its outer step.

    Built as `Algorithm(spec, params, config, seed)`; `config` is an instance of the class's frozen dataclass `Config`, which also says the batch
    (num_tasks, num_robots) that the algorithm wants to be fed with and for how many iterations.
    """

    Config: ClassVar[type[Any]]
    privileged: ClassVar[bool] = False  # its adapter is told the task (`Privileged`)
    pools_robots: ClassVar[bool] = False  # the copies of a task are one learner, which learns from all of them together
    discrete: ClassVar[bool] = False  # it can choose between discrete actions
    noise_to_adapt: ClassVar[bool] = False  # it learns from varied actions, so evaluation and robots let it explore as well
    experience: Experience | None = None  # of one learner, that others shall begin with: see `metarl.experience`

    def __init__(self, spec: EnvSpec, params: tuple[Param, ...], config: Any, seed: int = 0) -> None:
        if spec.discrete and not self.discrete:
            raise ValueError(f"{spec.task} has discrete actions, and {type(self).__name__} acts by a Gaussian: rl2 and maml, among others, can learn it")
        settings.check(config)
        self.spec, self.params, self.config, self.seed = spec, params, config, seed

    @property
    def pool_tasks(self) -> int:
        """How many training tasks it comes back to, because it remembers each of them; 0: each rollout may be about new ones."""
        return 0

    def to(self, device: torch.device | str) -> Self:
        """Move all networks to a device. An algorithm that keeps tensors outside of networks moves them as well."""
        for part in vars(self).values():
            if isinstance(part, nn.Module):
                part.to(device)
        return self

    @abstractmethod
    def adapter(self, num_tasks: int, num_robots: int = 1, training: bool = False) -> Adapter:
        """A fresh adapter for M x R learners. With `training`, it explores as meta-training needs it."""

    @abstractmethod
    def meta_update(self, rollout: Rollout) -> dict[str, float]:
        """One outer step from a rollout that a training adapter made with the present meta-parameters; returns what to log."""

    @abstractmethod
    def meta_parameters(self) -> dict[str, Tensor]:
        """All that crosses to the robot, normaliser included."""

    @abstractmethod
    def load_meta_parameters(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `meta_parameters` gave. Names and shapes were checked."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Everything that is needed to resume training exactly: a nested dict of tensors, numbers and strings."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`."""
