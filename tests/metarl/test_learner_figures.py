import dataclasses
import itertools
import math

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from metarl import algos, tasks
from metarl.learner_figures import Products
from metarl.presets import config_for


def recorded(piece):
    with Products() as products:
        piece()
    return [(tuple(left), tuple(right)) for left, right in products.shapes], products


def test_products_of_a_linear_layer_forwards_and_backwards():
    linear, x = nn.Linear(3, 5), torch.randn(7, 3, requires_grad=True)
    shapes, products = recorded(lambda: linear(x).sum().backward())
    # x W^T; then the gradients by x and by W
    assert sorted(shapes) == sorted([((7, 3), (3, 5)), ((7, 5), (5, 3)), ((5, 7), (7, 3))])
    products.replayed()()


def test_products_of_batches_and_of_those_that_write_where_they_stand():
    x, y = torch.randn(2, 3, 4), torch.randn(2, 4, 5)
    assert recorded(lambda: torch.baddbmm(torch.zeros(2, 3, 5), x, y))[0] == [((2, 3, 4), (2, 4, 5))]
    assert recorded(lambda: torch.zeros(3, 5).addmm_(x[0], y[0]))[0] == [((3, 4), (4, 5))]
    assert recorded(lambda: torch.addmm(torch.zeros(5), x[0], y[0], out=torch.zeros(3, 5)))[0] == [((3, 4), (4, 5))]


def test_products_of_attention():
    query, key = torch.randn(2, 1, 6, 4, requires_grad=True), torch.randn(2, 1, 8, 4)
    shapes, products = recorded(lambda: scaled_dot_product_attention(query, key, key).sum().backward())
    assert shapes == [((2, 1, 6, 4), (2, 1, 4, 8))] * 6  # two forwards, four backwards
    products.replayed()()


def test_a_step_of_pearl_multiplies_what_its_equations_ask_for_and_no_more():
    """Its products are what `metarl benchmark` compares the step with, so that one done twice would not show there."""
    task = tasks.make("half_cheetah_vel_pearl")
    config = dataclasses.replace(config_for("pearl", task.name), meta_batch=4, batch_size=32, context_size=64, num_tasks=4, pool_tasks=4)
    algorithm = algos.load("pearl")(task.spec, task.params, config, 0)
    algorithm.replay.written.fill_(100)
    algorithm.replay.trial_valid.fill_(True)
    products = recorded(lambda: algorithm.improve(torch.arange(4)))[1]

    def macs(rows, sizes):
        layers = [rows * fan_in * fan_out for fan_in, fan_out in itertools.pairwise(sizes)]
        return sum(layers), layers[0]

    obs, action, latent = task.spec.obs_size, task.spec.action_size, config.latent_size
    encoder, of_context = macs(4 * 64, [2 * obs + action + 1, *config.encoder_layers, 2 * latent])
    policy, of_obs = macs(4 * 32, [obs + latent, *config.layers, 2 * action])
    critics = 2 * macs(4 * 32, [obs + action + latent, *config.layers, 1])[0]
    # forwards, by weights and by inputs; what is given needs no gradient
    asked = {"encoder": 3 * encoder - of_context, "next action": policy, "targets": critics, "critics": 3 * critics}
    asked |= {"actor": 3 * policy - of_obs, "what critics say of it": 2 * critics}
    assert sum(math.prod(left) * right[-1] for left, right in products.shapes) == sum(asked.values())
