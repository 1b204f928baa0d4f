"""What tasks can be done with, and that it takes knowing the task: experts told the true parameters, and wrong ones."""

import numpy as np
import pytest
import torch

from metarl import tasks
from metarl.tasks import car_track
from metarl.tasks.batched_env import BatchedEnv
from metarl.tasks.grid_navi import GOALS
from metarl.tasks.parameters import TaskBatch

NUM = 32


def episode(env, batch, told, expert=None):
    """(H, N) rewards of one episode in the tasks `batch`, of the expert, or another one, who is told the tasks `told`; told None it acts at random."""
    env.set_tasks(batch)
    env.rng.manual_seed(0)
    env.reset()
    values = None if told is None else {name: torch.as_tensor(v, dtype=torch.float32) for name, v in told.named().items()}
    expert, chance = expert or env.task.expert, torch.Generator().manual_seed(0)
    rewards = []
    for _ in range(env.spec.horizon):
        action = expert(env.sensed, values) if values else 2 * torch.rand(NUM, env.spec.action_size, generator=chance) - 1
        rewards.append(env.step(action.unsqueeze(1)).reward[:, 0])
    return torch.stack(rewards)


def neighbours(batch):
    """The same tasks with the hidden parameters of others."""
    hidden = [i for i, p in enumerate(batch.params) if p.hidden]
    values = batch.values.copy()
    values[:, hidden] = np.roll(values[:, hidden], 1, axis=0)
    return TaskBatch(batch.task, batch.params, values, batch.ids)


def far(batch, name):
    """The same tasks with one parameter at the other end of its range."""
    values, index = batch.values.copy(), [p.name for p in batch.params].index(name)
    low, high = batch.params[index].train
    middle = np.sqrt(low * high) if batch.params[index].scale == "log" else 0.5 * (low + high)
    values[:, index] = np.where(values[:, index] > middle, low, high)
    return TaskBatch(batch.task, batch.params, values, batch.ids)


def untold(batch):
    """The same tasks with hidden parameters in the middle of what training draws: what one knows who knows the distribution alone."""
    values = batch.values.copy()
    for i, param in enumerate(batch.params):
        if param.hidden:
            low, high = param.train or (param.encode(param.nominal),) * 2
            values[:, i] = np.sqrt(low * high) if param.scale == "log" else 0.5 * (low + high)
    return TaskBatch(batch.task, batch.params, values, batch.ids)


@pytest.fixture
def of():
    """of(name): environment and held-out tasks."""
    made = []

    def make(name):
        task = tasks.make(name)
        made.append(BatchedEnv(task, NUM, num_threads=1, seed=0))
        return made[-1], task.sample(NUM, "iid")

    yield make
    for env in made:
        env.close()


def test_flying_needs_the_task(of):
    env, batch = of("quadrotor_track")
    told, wrong, random = (episode(env, batch, values) for values in (batch, neighbours(batch), None))
    reached = told[100:].mean()  # getting there takes its time; gusts and motor lags leave some millimetres
    print(f"last second: told {reached:.3f}, wrong {wrong[100:].mean():.3f}")
    print("return: told {:.1f}, wrong {:.1f}, random {:.1f}".format(*(rewards.sum(0).mean() for rewards in (told, wrong, random))))
    assert reached > 0.9  # at the target earns 1
    assert (told - wrong).sum(0).mean() > 0.2 * (told - random).sum(0).mean()


def test_driving_needs_the_task(of):
    env, batch = of("car_track")
    bolder = [episode(env, batch, batch, lambda readings, told, grip=grip: car_track.drive(readings, told, grip)).sum(0) for grip in (0.6, 0.8)]
    told, wrong, random = (episode(env, batch, values).sum(0) for values in (batch, neighbours(batch), None))
    possible = torch.stack([told, *bolder]).amax(0)  # with the best boldness for each task, known in hindsight
    print(f"return: told {told.mean():.1f}, best in hindsight {possible.mean():.1f}, wrong {wrong.mean():.1f}, random {random.mean():.1f}")
    assert (told - random).mean() > 0.9 * (possible - random).mean()
    assert (told - wrong).mean() > 0.2 * (told - random).mean()


@pytest.mark.parametrize(("name", "part"), [("friction", 0.15), ("steering_bias", 0.4), ("motor_gain", 0.25)])
def test_a_driver_pays_for_each_wrong_belief(of, name, part):
    env, batch = of("car_track")
    told, wrong, random = (episode(env, batch, values).sum(0).mean() for values in (batch, far(batch, name), None))
    print(f"{name}: told {told:.1f}, the other end {wrong:.1f}, random {random:.1f}")
    assert told - wrong > part * (told - random)


@pytest.mark.parametrize("name", ["quadrotor_track", "car_track"])
def test_there_is_something_to_adapt_to(of, name):
    env, batch = of(name)
    told, average, random = (episode(env, batch, values).sum(0).mean() for values in (batch, untold(batch), None))
    headroom = (told - average) / (told - random)
    print(f"{name}: told {told:.1f}, untold {average:.1f}, random {random:.1f}: headroom {headroom:.2f}")
    assert headroom > 0.2


@pytest.mark.parametrize("name", ["arm_reach", "arm_reach_jaco"])
def test_reaching_takes_the_cameras_error_and_no_more(of, name):
    env, batch = of(name)
    camera = np.array([p.name.startswith("camera") for p in batch.params])
    knows_it_alone = TaskBatch(batch.task, batch.params, np.where(camera, batch.values, untold(batch).values), batch.ids)
    miss = []
    for told in (knows_it_alone, untold(batch)):
        episode(env, batch, told)
        miss.append(env.task.error(env.readings).median())
    assert miss[0] < 0.001 < 0.04 < miss[1]


@pytest.mark.parametrize("name", ["arm_slide", "arm_slide_jaco"])
def test_a_strike_that_is_told_the_task_hits(of, name):
    env, batch = of(name)
    told, average, random = (episode(env, batch, values).sum(0).mean() for values in (batch, untold(batch), None))
    print(f"{name}: told {told:.2f}, untold {average:.2f}, random {random:.2f}")
    assert told - random > 0.9 * (1 - random), "a shot on the target is worth 1"
    assert told - average > 0.3 * (told - random)


def test_the_shortest_way_to_each_cell(of):
    env, batch = of("grid_navi")
    distance = torch.tensor([x + y for x, y in GOALS])[torch.as_tensor(batch.column("goal")).long()]
    torch.testing.assert_close(episode(env, batch, batch).sum(0), 15 - 1.1 * (distance - 1))


def test_who_is_told_an_mdp_earns_what_it_is_worth(of):
    env, batch = of("tabular_mdp_n10")
    earned = episode(env, batch, batch).sum(0).mean()
    values = {name: torch.as_tensor(v, dtype=torch.float32) for name, v in batch.named().items()}
    means, probabilities = env.task.means(values), env.task.probabilities(values)
    worth = means.amax(-1)
    for _ in range(env.spec.horizon - 1):
        worth = (means + (probabilities * worth[:, None, None]).sum(-1)).amax(-1)
    assert earned.item() == pytest.approx(worth[:, 0].mean().item(), rel=0.1)  # chance pays the rest
