"""Settings that an algorithm needs to do well on a task, where its defaults do not."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from metarl import algos

_NO_LIMIT = 1e9  # to the length of a gradient: such a file was trained before there was one

# RL², robust and oracle share one PPO and one network: what differs between them is only what they remember and are told
_RECURRENT: dict[str, dict[str, Any]] = {
    "arm_slide": {"num_tasks": 128, "iterations": 70, "discount": 0.95, "minibatches": 4, "epochs": 6},
    "arm_slide_jaco": {"num_tasks": 128, "iterations": 70, "discount": 0.95, "minibatches": 4, "epochs": 6},
    "arm_reach": {
        "num_tasks": 256, "iterations": 150, "discount": 0.97, "minibatches": 4, "epochs": 4,
        "hidden_size": 64, "learning_rate": 1.5e-3, "max_kl": 0.05, "entropy_bonus": 0.001,
    },
    "arm_lift_place": {
        "num_tasks": 96, "iterations": 120, "discount": 0.95, "minibatches": 4, "epochs": 6,
        "hidden_size": 64, "learning_rate": 2e-3, "max_kl": 0.05,
    },
    "arm_push": {
        "num_tasks": 128, "iterations": 160, "discount": 0.97, "gae_lambda": 0.95, "minibatches": 4, "epochs": 6,
        "hidden_size": 64, "learning_rate": 2e-3, "max_kl": 0.05, "entropy_bonus": 0.001,
    },
    "arm_push_hidden_goal": {
        "num_tasks": 128, "iterations": 160, "discount": 0.97, "gae_lambda": 0.95, "minibatches": 4, "epochs": 6,
        "hidden_size": 64, "learning_rate": 2e-3, "max_kl": 0.05, "entropy_bonus": 0.001,
    },
    "bandit_n10_k5": {
        "num_tasks": 1024, "iterations": 300, "discount": 1.0, "gae_lambda": 0.9, "minibatches": 2, "epochs": 4,
        "hidden_size": 64, "learning_rate": 3e-3, "entropy_bonus": 0.02,
    },
    "bandit_n100_k5": {
        "num_tasks": 512, "iterations": 300, "discount": 1.0, "gae_lambda": 0.9, "minibatches": 4, "epochs": 4,
        "hidden_size": 64, "learning_rate": 3e-3, "entropy_bonus": 0.02, "max_kl": 0.05,
    },
    # what a decision costs within its episode is in the training reward already: the short lambda finds the first use of the memory sooner
    "tabular_mdp_n10": {
        "num_tasks": 512, "iterations": 1000, "discount": 1.0, "gae_lambda": 0.3, "minibatches": 8, "epochs": 4,
        "hidden_size": 128, "memory_span": 100, "learning_rate": 3e-3, "entropy_bonus": 0.03, "max_kl": 0.05,
    },
    "grid_navi": {
        "num_tasks": 256, "iterations": 220, "gae_lambda": 0.95, "minibatches": 4, "epochs": 4,
        "hidden_size": 64, "memory_span": 60, "learning_rate": 2e-3, "entropy_bonus": 0.01, "max_kl": 0.05,
    },
    "kitchen_grid": {
        "num_tasks": 256, "iterations": 200, "discount": 0.98, "gae_lambda": 0.95, "minibatches": 8, "epochs": 4,
        "hidden_size": 64, "learning_rate": 3e-3, "entropy_bonus": 0.01, "max_kl": 0.05,
    },
    "kitchen": {
        "num_tasks": 128, "iterations": 110, "discount": 0.97, "gae_lambda": 0.95, "minibatches": 8, "epochs": 5,
        "hidden_size": 64, "learning_rate": 3e-3, "entropy_bonus": 0.01, "max_kl": 0.05,
    },
    "quadrotor_track": {
        "num_tasks": 128, "iterations": 150, "discount": 0.97, "minibatches": 8, "epochs": 5, "initial_std": 0.35,
        "hidden_size": 64, "learning_rate": 3e-3, "max_kl": 0.05, "entropy_bonus": 0.0,
    },
    "car_track": {
        "num_tasks": 128, "iterations": 110, "discount": 0.98, "minibatches": 8, "epochs": 5, "initial_std": 0.35,
        "hidden_size": 64, "learning_rate": 3e-3, "max_kl": 0.05, "entropy_bonus": 0.0,
    },
    "half_cheetah_vel_pearl": {
        "num_tasks": 64, "iterations": 150, "discount": 0.97, "gae_lambda": 0.95, "minibatches": 4, "epochs": 5,
        "hidden_size": 64, "learning_rate": 2e-3, "max_kl": 0.05, "entropy_bonus": 0.001,
    },
    "point_navigation": {
        "num_tasks": 128, "iterations": 80, "discount": 0.95, "minibatches": 4, "epochs": 4,
        "hidden_size": 64, "learning_rate": 2e-3, "max_kl": 0.05,
    },
    "sparse_point_varibad": {"num_tasks": 128, "iterations": 200, "minibatches": 4, "epochs": 4, "hidden_size": 64},
    "sparse_point_pearl": {
        "num_tasks": 80, "iterations": 150, "discount": 0.97, "minibatches": 4, "epochs": 4,
        "hidden_size": 64, "learning_rate": 2e-3, "max_kl": 0.05,
    },
}  # fmt: skip
_RECURRENT["kitchen_handles"] = _RECURRENT["kitchen"] | {"iterations": 250}
_RECURRENT["arm_reach_ur5e"] = _RECURRENT["arm_reach"]
_RECURRENT["car_track_obstacles"] = _RECURRENT["car_track"] | {"iterations": 300}
_RECURRENT["half_cheetah_dir"] = _RECURRENT["half_cheetah_vel_pearl"] | {"iterations": 120}


def _ppo(task: str) -> dict[str, Any]:
    """RL²'s settings without those of its memory."""
    return {name: value for name, value in _RECURRENT[task].items() if name not in ("hidden_size", "memory_span")}


PRESETS: dict[tuple[str, str], Mapping[str, Any]] = {
    (algorithm, task): settings for algorithm in ("rl2", "robust", "oracle") for task, settings in _RECURRENT.items()
}
for _task in ("bandit_n10_k5", "grid_navi", "arm_slide", "arm_reach", "point_navigation", "sparse_point_varibad", "sparse_point_pearl"):  # PPO as for RL²
    PRESETS["snail", _task] = _ppo(_task)
PRESETS["snail", "bandit_n10_k5"] = {**PRESETS["snail", "bandit_n10_k5"], "iterations": 150}
# trials of 100 decisions: half the filters cost a third of the time
for _task in ("bandit_n100_k5", "tabular_mdp_n10"):
    PRESETS["snail", _task] = _ppo(_task) | {"filters": 8, "minibatches": 8, "epochs": 3}
PRESETS["snail", "tabular_mdp_n10"] = {**PRESETS["snail", "tabular_mdp_n10"], "iterations": 950, "minibatches": 16}
for _task in ("grid_navi", "half_cheetah_dir", "arm_slide", "arm_reach", "point_navigation", "sparse_point_varibad", "sparse_point_pearl"):
    PRESETS["hypernetwork", _task] = _RECURRENT[_task]
PRESETS["hypernetwork", "grid_navi"] = _RECURRENT["grid_navi"] | {"memory_span": 1}
for _task in ("quadrotor_track", "car_track", "arm_reach", "arm_slide", "point_navigation", "sparse_point_varibad", "sparse_point_pearl"):
    PRESETS["rma", _task] = _RECURRENT[_task] | {"iterations": 200}
# a step after every single shot of one robot: many tasks, a small network, and step sizes that are meta-learned
PRESETS["maml", "arm_slide"] = {
    "num_tasks": 128, "num_robots": 1, "iterations": 200, "layers": (32,), "credit": "returns",
    "learn_inner_lr": True, "action_scale": 0.2, "max_kl": 0.02,
}  # fmt: skip
PRESETS["fomaml", "arm_slide"] = PRESETS["maml", "arm_slide"]
PRESETS["promp", "arm_slide"] = {k: v for k, v in PRESETS["maml", "arm_slide"].items() if k != "max_kl"} | {"learning_rate": 3e-3}
for _algorithm in ("maml", "fomaml", "promp"):
    PRESETS[_algorithm, "arm_reach"] = {"num_tasks": 24, "num_robots": 10, "iterations": 60, "normalise_obs": True}
PRESETS["maml", "point_navigation"] = PRESETS["fomaml", "point_navigation"] = {"iterations": 30}
PRESETS["promp", "point_navigation"] = {"iterations": 30, "learning_rate": 3e-3}
# a sparse reward is met only by large noise
for _task in ("sparse_point_varibad", "sparse_point_pearl"):
    PRESETS["maml", _task] = PRESETS["fomaml", _task] = {"iterations": 60, "action_scale": 1.0}
    PRESETS["promp", _task] = {"iterations": 60, "learning_rate": 3e-3, "action_scale": 1.0}
PRESETS["maml", "half_cheetah_vel_pearl"] = PRESETS["promp", "half_cheetah_vel_pearl"] = {"num_robots": 10, "iterations": 100, "normalise_obs": True}
PRESETS["maml", "bandit_n10_k5"] = {
    "num_tasks": 512, "num_robots": 1, "iterations": 60, "layers": (), "credit": "returns",
    "learn_inner_lr": True, "inner_lr": 1.0, "max_kl": 0.02, "discount": 1.0,
}  # fmt: skip
# PPO as for RL²; the weight of KL and the encoder's rate are those of VariBAD's code
PRESETS["varibad", "grid_navi"] = _RECURRENT["grid_navi"] | {"memory_span": 1, "kl_weight": 0.01, "vae_learning_rate": 1e-3}
for _task in ("sparse_point_pearl", "arm_reach"):
    PRESETS["varibad", _task] = _RECURRENT[_task] | {"memory_span": 100, "reward_weight": 10.0, "kl_weight": 0.1, "vae_learning_rate": 1e-3}
# where a robot stands still, rewards say little of the direction of the goal: beliefs must be sharp before the policy goes anywhere
PRESETS["varibad", "point_navigation"] = _RECURRENT["point_navigation"] | {
    "iterations": 160, "memory_span": 100, "reward_weight": 10.0, "kl_weight": 0.1, "vae_updates": 40, "vae_learning_rate": 3e-3,
}  # fmt: skip
# tasks differ in their dynamics: o' of a strike is its outcome
PRESETS["varibad", "arm_slide"] = _RECURRENT["arm_slide"] | {"kl_weight": 0.01, "vae_learning_rate": 1e-3, "state_weight": 1.0}
PRESETS["varibad", "sparse_point_varibad"] = _RECURRENT["sparse_point_varibad"] | {
    "iterations": 350, "memory_span": 100, "reward_weight": 10.0, "kl_weight": 0.1, "vae_updates": 20, "vae_learning_rate": 3e-3,
    "vae_trials": 32, "num_decoded": 60,
}  # fmt: skip

# beta is the code's, in rewards of their own unit; smaller networks and batches, and noise that leads somewhere where a reward is hard to find
PRESETS["pearl", "sparse_point_pearl"] = {
    "num_tasks": 40, "pool_tasks": 80, "prior_episodes": 5, "iterations": 150, "updates": 150, "batch_size": 32, "context_size": 400,
    "layers": (64, 64), "encoder_layers": (64, 64), "reward_scale": 1.0, "discount": 0.9, "kl_weight": 0.005, "learning_rate": 2e-3,
    "target_rate": 0.02, "negentropy": 0.25, "noise_correlation": 0.95, "max_gradient_norm": _NO_LIMIT,
}  # fmt: skip
PRESETS["pearl", "point_navigation"] = {
    "iterations": 60, "updates": 100, "batch_size": 48, "context_size": 64, "layers": (64, 64), "encoder_layers": (64, 64),
    "reward_scale": 0.5, "discount": 0.95, "kl_weight": 0.003, "learning_rate": 2e-3, "target_rate": 0.02,
}  # fmt: skip
# one decision an episode: nothing comes after it
PRESETS["pearl", "arm_slide"] = {
    "num_tasks": 64, "pool_tasks": 256, "iterations": 80, "updates": 300, "batch_size": 64, "context_size": 4, "latent_size": 8, "memory": 500,
    "layers": (128, 128), "discount": 0.0, "reward_scale": 5.0, "kl_weight": 0.002, "initial_alpha": 0.1,
}  # fmt: skip
PRESETS["pearl", "half_cheetah_vel"] = PRESETS["pearl", "half_cheetah_vel_pearl"] = {
    "num_tasks": 10, "iterations": 134, "updates": 900, "batch_size": 128, "context_size": 64, "layers": (128, 128),
    "reward_scale": 0.2, "initial_alpha": 0.05, "kl_weight": 0.02, "target_rate": 0.01, "max_gradient_norm": _NO_LIMIT,
}  # fmt: skip
PRESETS["pearl", "half_cheetah_dir"] = {**PRESETS["pearl", "half_cheetah_vel"], "pool_tasks": 16, "iterations": 125, "reward_scale": 0.1}
PRESETS["pearl", "sparse_point_varibad"] = {
    **PRESETS["pearl", "sparse_point_pearl"], "num_tasks": 20, "prior_episodes": 1, "iterations": 80, "max_gradient_norm": 5.0,
}  # fmt: skip
PRESETS["pearl", "arm_reach"] = {"iterations": 60, "updates": 400, "layers": (128, 128)}
# ten times fewer decisions than RL²
PRESETS["amago", "grid_navi"] = {"num_tasks": 48, "iterations": 110, "updates": 30, "buffer_trials": 3072, "popart_rate": 0.003}
PRESETS["amago", "arm_slide"] = {
    "num_tasks": 64, "iterations": 50, "updates": 20, "batch_trials": 128, "lookahead": (1, 4, 20), "entropy_bonus": 0.05,
}  # fmt: skip
# few updates: near-sighted discounts and quick targets, and entropy that keeps actors from trusting critics that know little yet
for _task in ("point_navigation", "sparse_point_varibad", "sparse_point_pearl", "arm_reach"):
    PRESETS["amago", _task] = {
        "num_tasks": 64, "iterations": 60, "updates": 70, "batch_trials": 24, "buffer_trials": 1280,
        "lookahead": (4, 12, 33), "target_rate": 0.05, "popart_rate": 0.03, "entropy_bonus": 0.1,
    }  # fmt: skip
PRESETS["amago", "point_navigation"] = {**PRESETS["amago", "point_navigation"], "num_tasks": 32, "buffer_trials": 640, "lookahead": (3, 8, 20)}
# a reward that says at once what a step was worth
PRESETS["metagenrl", "point_navigation"] = {"discount": 0.9}
# slower learners than RL² had fewer decisions where these would have taken hours; RMA has a teacher to train before its student
for _algorithm, _task, _iterations in (
    ("snail", "sparse_point_varibad", 100), ("snail", "sparse_point_pearl", 80), ("snail", "arm_reach", 50), ("varibad", "arm_reach", 50),
    ("hypernetwork", "point_navigation", 60), ("hypernetwork", "sparse_point_varibad", 150), ("hypernetwork", "sparse_point_pearl", 60),
    ("hypernetwork", "arm_reach", 50), ("rma", "arm_reach", 100),
):  # fmt: skip
    PRESETS[_algorithm, _task] = {**PRESETS[_algorithm, _task], "iterations": _iterations}


def config_for(algorithm: str, task: str) -> Any:
    """The algorithm's configuration for a task: its defaults, and over them what PRESETS says of the pair, or of a task whose name differs in numbers alone.

    Raises:
        ValueError: no algorithm has that name.
    """
    of_algorithm = {name: settings for (whose, name), settings in PRESETS.items() if whose == algorithm}
    family = (settings for name, settings in of_algorithm.items() if re.sub(r"\d+", "", name) == re.sub(r"\d+", "", task))
    return algos.load(algorithm).Config(**of_algorithm.get(task, next(family, {})))
