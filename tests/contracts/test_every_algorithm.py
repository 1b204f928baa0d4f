"""What holds for every algorithm; a new algorithm file is found by itself."""

import dataclasses
import functools
from contextlib import contextmanager, nullcontext

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from metarl import algos, meta_parameters, tasks
from metarl.networks import Categorical, Gaussian
from metarl.rollout import Rollout
from metarl.tasks.batched_env import BatchedEnv, Step
from metarl.trial_ppo import TrialPPO
from metarl.trials import trials, valid_first

# each on a task with continuous actions, and on one with discrete ones if it can
CASES = [(name, task) for name in algos.names() for task in ("point_navigation", "grid_navi") if task == "point_navigation" or algos.load(name).discrete]
every_algorithm = pytest.mark.parametrize(("name", "task"), CASES)
pytestmark = pytest.mark.usefixtures("short_episodes")

STEP_FIELDS = [f.name for f in dataclasses.fields(Step)]
FACTORIES = {torch.zeros, torch.ones, torch.empty, torch.full, torch.tensor, torch.arange, torch.linspace, torch.eye, torch.rand, torch.randn, torch.randperm}


@pytest.fixture
def small_algorithm(small_algorithm, task):
    return functools.partial(small_algorithm, task=task)


@pytest.fixture
def algorithm(name, small_algorithm):
    """One that has been trained a little, so that its normaliser is not the identity and its output layer is not nearly zero."""
    made = small_algorithm(name, normalise_obs=True)
    with torch.no_grad():
        made.load_meta_parameters({k: v + 0.1 * torch.sin(torch.arange(v.numel()) + 1.0).reshape(v.shape) for k, v in made.meta_parameters().items()})
    return made


def steps(rollout, tasks=slice(None)):
    """The rollout's episodes as lists of Steps."""
    episodes, horizon = rollout.obs.shape[2:4]
    return [[Step(*(getattr(rollout, f)[tasks, :, k, h] for f in STEP_FIELDS)) for h in range(horizon)] for k in range(episodes)]


def replay(adapter, rollout, tasks=slice(None), watch=nullcontext):
    """(M, R, K, H, A) mean actions of an adapter that is shown a recorded rollout; each decision is made within a new `watch()`."""
    adapter.reset()
    if hasattr(adapter, "tell"):
        adapter.tell(rollout.values[tasks])
    actions = []
    for episode in steps(rollout, tasks):
        for step in episode:
            with watch():
                actions.append(adapter.act(step.obs, explore=False))
                adapter.observe(step)
        adapter.adapt()
    return torch.stack(actions, 2).unflatten(2, (rollout.obs.shape[2], -1))


def with_early_ends(rollout, garbage):
    """Two robots end in the middle of an episode; what is held after that is `garbage`."""
    changed = Rollout(**{f.name: getattr(rollout, f.name) for f in dataclasses.fields(Rollout)})
    for name in STEP_FIELDS:
        setattr(changed, name, getattr(rollout, name).clone())
    for robot in ((0, 0, 0), (2, 1, 1)):  # task, copy, episode
        changed.terminated[(*robot, 3)] = True
        changed.truncated[robot] = False
        held = (*robot, slice(4, None))
        changed.valid[held], changed.reward[held] = False, 0.0
        for name in ("obs", "next_obs", "action"):
            getattr(changed, name)[held] = garbage
    return changed


def same(left, right):
    assert left.keys() == right.keys()
    for key in left:
        torch.testing.assert_close(left[key], right[key], rtol=0, atol=0, msg=lambda text, key=key: f"{key}: {text}")


@every_algorithm
def test_actions_are_finite_and_of_the_right_shape(algorithm, small_rollout):
    rollout = small_rollout(algorithm)
    spec = algorithm.spec
    assert rollout.action.shape == (3, 2, spec.episodes_per_trial, spec.horizon, spec.action_size)
    assert bool(rollout.action.isfinite().all())
    assert float(rollout.action[0, 0, 0].std()) > 0.01, "a training adapter that does not explore learns nothing"


@every_algorithm
def test_an_observation_that_is_not_a_number_never_becomes_a_command(algorithm):
    env = BatchedEnv(tasks.make(algorithm.spec.task), 3, 2)
    env.set_tasks(env.task.sample(3))
    obs = env.reset()
    obs[1, 0, 1] = torch.nan
    action = algorithm.adapter(3, 2).act(obs, explore=False)
    others = torch.ones(3, 2, dtype=torch.bool)
    others[1, 0] = False
    assert bool(action[others].isfinite().all()), "one broken sensor must not stop the other robots"
    with pytest.raises(ValueError, match="action of robot 2 is not finite"):
        env.step(action)


@every_algorithm
def test_what_is_understood_comes_from_observe_alone_and_act_changes_nothing(algorithm, small_rollout):
    rollout = small_rollout(algorithm)
    adapter = algorithm.adapter(3, 2)
    first = replay(adapter, rollout)
    obs = rollout.obs[:, :, 0, 0]
    before = adapter.act(obs, explore=False)
    for _ in range(3):
        adapter.act(obs + 1.0)
    same({"act": before}, {"act": adapter.act(obs, explore=False)})
    in_training = algorithm.adapter(3, 2, training=True)
    shown = replay(in_training, rollout)
    if type(in_training) is type(adapter):
        same({"replay": first}, {"replay": shown})
    else:  # a teacher is told in training what its student must find out, and the agents of a population live on: still, nothing but `observe` counts
        in_training.act(obs + 1.0)
        same({"replay": shown}, {"replay": replay(in_training, rollout)})


@every_algorithm
def test_tasks_in_a_batch_are_as_if_alone(algorithm, small_rollout):
    rollout = small_rollout(algorithm)
    together = replay(algorithm.adapter(3, 2), rollout)
    alone = [replay(algorithm.adapter(1, 2), rollout, slice(m, m + 1)) for m in range(3)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-5)


@every_algorithm
def test_held_steps_change_nothing_in_the_adapter(algorithm, small_rollout):
    rollout = small_rollout(algorithm)
    zero, seven = (with_early_ends(rollout, garbage) for garbage in (0.0, 7.0))
    acted = [replay(algorithm.adapter(3, 2), r) for r in (zero, seven)]
    valid = zero.valid.unsqueeze(-1)
    same({"act": acted[0] * valid}, {"act": acted[1] * valid})


@every_algorithm
def test_held_steps_change_nothing_in_the_outer_step(name, small_algorithm, small_rollout):
    results = []
    for garbage in (0.0, 7.0):
        algorithm = small_algorithm(name)
        algorithm.meta_update(with_early_ends(small_rollout(algorithm), garbage))
        results.append(algorithm.meta_parameters())
    for key in results[0]:
        torch.testing.assert_close(results[0][key], results[1][key], rtol=1e-4, atol=1e-6)


@every_algorithm
def test_reset_equals_a_new_adapter(algorithm, small_rollout):
    rollout, other = small_rollout(algorithm), small_rollout(algorithm, start=10)
    used = algorithm.adapter(3, 2)
    replay(used, other)
    same({"act": replay(used, rollout)}, {"act": replay(algorithm.adapter(3, 2), rollout)})


@every_algorithm
def test_meta_parameters_move_in_the_outer_step_and_nowhere_else(name, small_algorithm, small_rollout):
    algorithm = small_algorithm(name)
    before = algorithm.meta_parameters()
    rollout = small_rollout(algorithm)
    replay(algorithm.adapter(3, 2), rollout)
    same(before, algorithm.meta_parameters())
    metrics = algorithm.meta_update(rollout)
    after = algorithm.meta_parameters()
    assert any(not torch.equal(before[k], after[k]) for k in before)
    assert metrics
    assert all(isinstance(v, float | int) for v in metrics.values())


@every_algorithm
def test_save_and_load_act_the_same_bit_for_bit(name, small_algorithm, small_rollout, tmp_path):
    algorithm = small_algorithm(name)
    algorithm.meta_update(small_rollout(algorithm))
    path = tmp_path / "file.safetensors"
    meta_parameters.save(path, algorithm, name, env_steps=96, command="metarl train")
    loaded = meta_parameters.load(path)
    assert loaded.config == algorithm.config
    same(algorithm.meta_parameters(), loaded.meta_parameters())
    rollout = small_rollout(algorithm, start=3)
    same({"act": replay(algorithm.adapter(3, 2), rollout)}, {"act": replay(loaded.adapter(3, 2), rollout)})


@every_algorithm
def test_resumed_training_equals_uninterrupted_training(name, small_algorithm, small_rollout, tmp_path):
    algorithm = small_algorithm(name)
    algorithm.meta_update(small_rollout(algorithm))
    path = tmp_path / "state.safetensors"
    meta_parameters.save_state(path, algorithm.state_dict())
    resumed = small_algorithm(name, seed=99)
    resumed.load_state_dict(meta_parameters.load_state(path))
    for start in (3, 6):
        metrics = [a.meta_update(small_rollout(a, start)) for a in (algorithm, resumed)]
        assert metrics[0] == metrics[1]
    same(algorithm.meta_parameters(), resumed.meta_parameters())


@every_algorithm
def test_same_seed_same_meta_parameters_whatever_the_global_generator(name, small_algorithm):
    torch.manual_seed(1)
    one = small_algorithm(name).meta_parameters()
    torch.manual_seed(2)
    same(one, small_algorithm(name).meta_parameters())


class WrongDeviceUnlessSaid(TorchFunctionMode):
    """Tensors that are made without saying where land on the meta device and cannot be mixed with others, as on a machine with a GPU.

    Random numbers from a generator are drawn where the generator is, on the CPU, and so is all else: what nobody moves from there is not found.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in FACTORIES and kwargs.get("device") is None and kwargs.get("generator") is None:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


@every_algorithm
def test_everything_is_made_on_the_device_of_its_inputs(name, small_algorithm, small_rollout):
    algorithm = small_algorithm(name)
    algorithm.meta_update(small_rollout(algorithm))  # optimisers make their state, on their own terms
    rollout = small_rollout(algorithm, start=3)
    with WrongDeviceUnlessSaid():
        with pytest.raises(RuntimeError, match="meta"):
            rollout.obs + torch.zeros(3, 1, 1, 1, 1)
        replay(algorithm.adapter(3, 2), rollout)
        algorithm.meta_update(rollout)


@every_algorithm
def test_an_adapter_works_on_another_device(name, small_algorithm, small_rollout):
    """The meta device has all but numbers. An outer step, which logs numbers, and the birth of an agent from its seed do not get through there."""
    algorithm = small_algorithm(name)
    step = steps(small_rollout(algorithm))[0][0]
    for training in (True, False)[: 1 if name == "metagenrl" else 2]:
        adapter = algorithm.to("meta").adapter(3, 2, training)
        for explore in (True, False):
            assert adapter.act(step.obs.to("meta"), explore).is_meta
        adapter.observe(step)


# ---- what trains what -------------------------------------------------------------------------------------------------------


def last_log_prob(algorithm, rollout):
    """Of the last decision, as the outer step computes it."""
    return algorithm.evaluate(algorithm.batch(rollout))[0][:, -1]


# what trains a memory, of the last decision: log-probabilities, or how well the last belief foretells it, or what the student takes z for
TRAINS_MEMORY = {
    **dict.fromkeys(["rl2", "oracle", "hypernetwork", "snail"], last_log_prob),
    "amago": lambda algorithm, rollout: algorithm.judge(trials(rollout, valid_first(rollout))).log_prob[:, -1],
    "varibad": lambda algorithm, rollout: algorithm.elbo(trials(rollout, valid_first(rollout)))[0],
    "rma": lambda algorithm, rollout: algorithm.student.guesses(algorithm.batch(rollout).transition[:, :-1])[:, -1],
}
NO_MEMORY = {"robust", "maml", "fomaml", "promp", "pearl", "metagenrl"}
OFF_POLICY = {"amago", "pearl", "metagenrl"}  # they never ask how likely an action was that was taken


def cases(names):
    """Those of CASES that are of these algorithms."""
    return pytest.mark.parametrize(("name", "task"), [case for case in CASES if case[0] in names])


@cases(set(algos.names()) - NO_MEMORY)
def test_the_last_decision_of_a_trial_trains_all_of_the_memory_and_what_it_made_of_the_first_transition(name, algorithm, small_rollout, monkeypatch):
    rollout, network, taken_in = small_rollout(algorithm), algorithm.network, []
    assert bool(rollout.valid.all())
    experience = network.experience

    def last(candidates, count, generator):
        return torch.full((len(candidates), 1), candidates.shape[1] - 1), torch.ones(len(candidates), 1, dtype=torch.bool)

    monkeypatch.setattr(network, "experience", lambda step: (taken_in.append(experience(step).requires_grad_()), taken_in[-1])[1])
    monkeypatch.setattr("metarl.algos.varibad.choose", last)
    weights = {key: p for key, p in network.memory.named_parameters() if p.ndim > 1}
    by_transition, *by_weights = torch.autograd.grad(TRAINS_MEMORY[name](algorithm, rollout).sum(), [taken_in[0], *weights.values()], allow_unused=True)
    assert by_transition is not None, "what is said does not depend on the memory"
    assert bool(by_transition[:, 0].any(-1).all())
    assert [key for key, grad in zip(weights, by_weights, strict=True) if grad is None or not bool(grad.any())] == []


@cases({name for name in algos.names() if issubclass(algos.load(name), TrialPPO)})
def test_the_value_function_is_told_the_task_and_the_policy_where_it_acts_so(name, algorithm, small_rollout):
    batch = algorithm.batch(small_rollout(algorithm))
    batch.task.requires_grad_()
    batch.time_left.requires_grad_()
    log_prob, value, _ = algorithm.evaluate(batch)
    for told in torch.autograd.grad(value.sum(), [batch.task, batch.time_left], retain_graph=True):
        assert bool(told.any(-1).all())
    told = torch.autograd.grad(log_prob.sum(), batch.task, allow_unused=True)[0]
    assert (told is not None and bool(told.any())) == (name in {"oracle", "rma"})  # rma: the teacher


@cases(set(algos.names()) - OFF_POLICY)
def test_the_outer_step_computes_the_probabilities_that_actions_were_drawn_with(algorithm, small_rollout, monkeypatch):
    drawn, said = [], []

    def watch(kind):
        sample, log_prob = kind.sample, kind.log_prob

        def sampled(self, generator):
            action = sample(self, generator)
            drawn.append(log_prob(self, action))
            return action

        monkeypatch.setattr(kind, "sample", sampled)
        monkeypatch.setattr(kind, "log_prob", lambda self, action: (said.append(log_prob(self, action)), said[-1])[1])

    watch(Gaussian)
    watch(Categorical)
    rollout = small_rollout(algorithm)
    assert bool(rollout.valid.all())
    robots, horizon = rollout.valid.shape[:2], rollout.valid.shape[3]
    acted = torch.stack(drawn, -1).unflatten(-1, (-1, horizon))  # (M, R, K, H)
    algorithm.meta_update(rollout)
    whole = [x.detach().reshape(*robots, -1, horizon) for x in said if x.numel() % acted[:, :, 0].numel() == 0]  # of all robots, some of the episodes
    error = (acted.unsqueeze(2) - torch.cat(whole, 2).unsqueeze(3)).abs().amax((0, 1, 4))  # (computed, K)
    assert float(error.amin(0).max()) < 1e-4, "an episode was not recomputed as it was acted"


# ---- what it costs ----------------------------------------------------------------------------------------------------------


class Operations(TorchDispatchMode):
    """How many operations torch is asked for, those of backward passes among them."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


@contextmanager
def work(kept):
    """Operations, and floating-point operations in products of matrices, are put into a list."""
    with FlopCounterMode(display=False) as flops, Operations() as operations:
        yield
    kept.append((operations.count, flops.get_total_flops()))


@every_algorithm
def test_the_last_decision_of_a_trial_costs_no_more_than_the_second(algorithm, small_rollout):
    kept = []
    replay(algorithm.adapter(3, 2), small_rollout(algorithm), watch=lambda: work(kept))
    (operations, flops), (last_operations, last_flops) = kept[1], kept[-1]
    assert operations == last_operations
    assert last_flops <= 2 * flops, "attention to a trial is cheap beside a decision, going through the trial again is not"


@every_algorithm
def test_nothing_loops_over_tasks_robots_or_critics(name, small_algorithm, small_rollout):
    counts = []
    for num_tasks, num_robots in ((2, 2), (7, 3)):
        # one epoch, and one look of a line search, at a step too short to be taken: how many there are depends on the data
        once = {"epochs": 1, "cg_iterations": 1, "backtracks": 1, "max_kl": 1e-30}
        algorithm = small_algorithm(name, num_tasks=num_tasks, num_robots=num_robots, critics=num_tasks, pool_tasks=7, **once)
        rollout = small_rollout(algorithm)
        with Operations() as operations:
            replay(algorithm.adapter(num_tasks, num_robots), rollout)
            algorithm.meta_update(rollout)
        counts.append(operations.count)
    assert counts[0] == counts[1]


# ---- discrete actions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in algos.names() if not algos.load(name).discrete])
def test_an_algorithm_that_cannot_choose_says_so(name, small_config):
    task = tasks.make("grid_navi")
    with pytest.raises(ValueError, match=r"grid_navi has discrete actions, and \w+ acts by a Gaussian"):
        algos.load(name)(task.spec, task.params, small_config(name))


@pytest.mark.parametrize("name", [name for name in algos.names() if algos.load(name).discrete])
@pytest.mark.parametrize("explore", [True, False])
def test_discrete_actions_are_one_hot(name, explore, small_config):
    task = tasks.make("bandit_n10_k5")
    adapter = algos.load(name)(task.spec, task.params, small_config(name)).adapter(50, 4)
    action = adapter.act(torch.zeros(50, 4, 1), explore)
    assert action.shape == (50, 4, 5)
    assert sorted(action.unique().tolist()) == [0.0, 1.0]
    assert action.sum(-1).unique().tolist() == [1.0]
    if explore:
        assert (action.mean((0, 1)) > 0.1).all(), "at first every arm is pulled about as often"
