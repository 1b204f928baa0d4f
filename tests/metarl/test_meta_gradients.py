"""Meta-gradients against the exact ones of a tiny Markov decision process: every trajectory is enumerated, so nothing is estimated. In float64.

The exact meta-gradient of J(theta + alpha grad J(theta)) is (1 + alpha H) grad J(theta'), with H the Hessian of the expected return J. Inner
objectives differ in the H that they give in expectation:

    naive             log pi * A                       lacks the scores' products: no credit for what is sampled
    likelihood ratio  pi / pi_sampled * A              has those of each decision with itself, lacks those of different decisions
    DiCE              exp(sum of log pi so far) * r    has all
    first order       none: H is taken to be zero
"""

import itertools
import statistics

import pytest
import torch

from metarl.algos.maml import MAMLConfig, OuterProblem
from metarl.algos.promp import OuterObjective, ProMPConfig
from metarl.inner_steps import BatchedCategorical, Jacobian, Segment, adapt, inner_gradient, leaf, log_prob_objective, ratio_objective

STATES, ACTIONS, ALPHA = 2, 2, 0.5
POLICY = BatchedCategorical((STATES, ACTIONS))  # softmax of a table and a bias
HORIZONS = (1, 2, 3)


class Problem:
    """A Markov decision process, drawn, meta-parameters for it, and all its T trajectories from state 0."""

    def __init__(self, horizon, seed=0):
        rng = torch.Generator().manual_seed(seed)
        self.horizon, self.seed = horizon, seed
        self.theta = 0.7 * torch.randn(POLICY.num_params, generator=rng, dtype=torch.float64)
        self.move = torch.rand(STATES, ACTIONS, generator=rng, dtype=torch.float64)  # probability that state 1 is next
        table = 2 * torch.randn(STATES, ACTIONS, generator=rng, dtype=torch.float64)
        every = itertools.product(*[range(STATES)] * (horizon - 1), *[range(ACTIONS)] * horizon)
        choices = torch.tensor(list(every))
        self.states = torch.cat([torch.zeros_like(choices[:, :1]), choices[:, : horizon - 1]], 1)  # (T, H)
        self.actions = choices[:, horizon - 1 :]  # (T, H)
        self.reward = table[self.states, self.actions]
        chance = self.move[self.states, self.actions][:, :-1]
        self.luck = torch.where(self.states[:, 1:] == 1, chance, 1 - chance).prod(1)  # probability of the states, given the actions

    def __repr__(self):
        return f"horizon {self.horizon}, seed {self.seed}"

    def probability(self, theta):
        """(T,), written without the policy under test."""
        pi = (theta[:4].reshape(STATES, ACTIONS) + theta[4:]).softmax(-1)
        return self.luck * pi[self.states, self.actions].prod(1)

    def expected_return(self, theta):
        return self.probability(theta) @ self.reward.sum(1)

    def adapted_return(self, theta):
        """J(theta + alpha grad J(theta))."""
        (gradient,) = torch.autograd.grad(self.expected_return(theta), theta, create_graph=True)
        return self.expected_return(theta + ALPHA * gradient)

    def exact(self):
        """The meta-gradient."""
        theta = leaf(self.theta)
        return torch.autograd.grad(self.adapted_return(theta), theta)[0]

    def alone(self, to_go=True):
        """Each trajectory as a task of its own, (T, H), with weight 1; advantages are rewards to go, or the rewards themselves."""
        obs, action = torch.eye(STATES, dtype=torch.float64)[self.states], torch.eye(ACTIONS, dtype=torch.float64)[self.actions]
        advantage = self.reward.flip(1).cumsum(1).flip(1) if to_go else self.reward
        return Segment(obs, action, advantage, torch.ones_like(advantage))

    def together(self, theta, to_go=True):
        """One task (1, T * H) that holds every trajectory, weighted by its probability: sums over it are expectations."""
        segment = self.alone(to_go)
        weight = self.probability(theta).detach().unsqueeze(1).expand_as(segment.weight)
        obs, action, advantage, weight = (x.flatten(0, 1).unsqueeze(0) for x in (*segment[:3], weight))
        return Segment(obs, action, advantage, weight)

    def meta_gradient(self, objective, segment, curved=True):
        """(1 + alpha H) grad J(theta'), with the H that the objective has on the segment."""
        steps = adapt(objective, POLICY, self.theta, torch.full_like(self.theta, ALPHA), [segment], create_graph=True)
        theta = leaf(steps.thetas[1])
        (cotangent,) = torch.autograd.grad(self.expected_return(theta[0]), theta)
        return Jacobian(steps, steps.gradients if curved else [], with_alpha=False).pull([cotangent])

    def error(self, found):
        """Length of what is wrong, as part of the exact meta-gradient."""
        return float((found - self.exact()).norm() / self.exact().norm())


every_horizon = pytest.mark.parametrize("problem", [Problem(h) for h in HORIZONS], ids=repr)


def dice_of(horizon):
    """Foerster et al. 2018, equation 8, for segments of whole trajectories whose advantages are plain rewards."""

    def dice(log_prob, segment):
        so_far = log_prob.unflatten(-1, (-1, horizon)).cumsum(-1).flatten(1)
        return ((so_far - so_far.detach()).exp() * segment.advantage * segment.weight).sum(-1)

    return dice


# ---- the reference itself ---------------------------------------------------------------------------------------------------


@every_horizon
def test_all_trajectories_are_there_and_the_exact_gradient_is_that_of_finite_differences(problem):
    assert len(problem.reward) == 2 ** (2 * problem.horizon - 1)
    assert float(problem.probability(problem.theta).sum()) == pytest.approx(1)
    step, unit = 1e-5, torch.eye(len(problem.theta), dtype=torch.float64)
    differences = [problem.adapted_return(leaf(problem.theta + step * e)) - problem.adapted_return(leaf(problem.theta - step * e)) for e in unit]
    torch.testing.assert_close(problem.exact(), torch.stack(differences).detach() / (2 * step), rtol=1e-7, atol=1e-9)


def test_expected_return_of_two_decisions_by_dynamic_programming():
    problem = Problem(horizon=2)
    pi = POLICY(problem.theta.unsqueeze(0), torch.eye(STATES, dtype=torch.float64).unsqueeze(0)).log_probs[0].exp()
    table = torch.zeros(STATES, ACTIONS, dtype=torch.float64)
    table[problem.states, problem.actions] = problem.reward
    last = (pi * table).sum(1)  # (S,) value of the second decision
    worth = table[0] + problem.move[0] * last[1] + (1 - problem.move[0]) * last[0]
    torch.testing.assert_close(problem.expected_return(problem.theta), (pi[0] * worth).sum())


# ---- inner objectives -------------------------------------------------------------------------------------------------------


@every_horizon
def test_the_step_itself_is_exact_with_every_objective(problem):
    right = torch.func.grad(problem.expected_return)(problem.theta)
    for objective, to_go in ((ratio_objective, True), (log_prob_objective, True), (dice_of(problem.horizon), False)):
        found, _ = inner_gradient(objective, POLICY, leaf(problem.theta.unsqueeze(0)), problem.together(problem.theta, to_go))
        torch.testing.assert_close(found[0], right, rtol=1e-12, atol=1e-14)


@every_horizon
def test_dice_has_no_bias(problem):
    assert problem.error(problem.meta_gradient(dice_of(problem.horizon), problem.together(problem.theta, to_go=False))) < 1e-12


def test_biases_of_the_others_in_twenty_random_problems():
    """Median errors. The naive H is worse than none at all; that of the ratio is exact for one decision, and nearly right for a few."""
    measured = {1: (0.0, 0.37, 0.24), 2: (0.016, 0.66, 0.29), 3: (0.045, 0.99, 0.40)}
    for horizon, expected in measured.items():
        ratio, naive, first_order = [], [], []
        for problem in (Problem(horizon, seed) for seed in range(20)):
            segment = problem.together(problem.theta)
            ratio.append(problem.error(problem.meta_gradient(ratio_objective, segment)))
            naive.append(problem.error(problem.meta_gradient(log_prob_objective, segment)))
            first_order.append(problem.error(problem.meta_gradient(ratio_objective, segment, curved=False)))
        found = [statistics.median(x) for x in (ratio, naive, first_order)]
        assert found == pytest.approx(expected, rel=0.05, abs=1e-12)


@every_horizon
def test_a_constant_in_the_advantages_is_harmless_for_the_ratio_and_not_for_the_naive_objective(problem):
    segment = problem.together(problem.theta)
    raised = segment._replace(advantage=segment.advantage + 3)
    change = {f: float((problem.meta_gradient(f, raised) - problem.meta_gradient(f, segment)).norm()) for f in (ratio_objective, log_prob_objective)}
    assert change[ratio_objective] < 1e-12
    assert change[log_prob_objective] > 0.1


def spread(problem, objective, to_go):
    """Standard deviation of the meta-gradient whose H comes from a single trajectory, exact."""
    theta = leaf(problem.theta.expand(len(problem.reward), -1))
    gradient, _ = inner_gradient(objective, POLICY, theta, problem.alone(to_go), create_graph=True)
    slope = torch.func.grad(problem.expected_return)
    cotangent = slope(problem.theta + ALPHA * slope(problem.theta))
    each = ALPHA * torch.autograd.grad(gradient, theta, cotangent.expand_as(theta))[0]
    chance = problem.probability(problem.theta).unsqueeze(1)
    return float((chance * (each - (chance * each).sum(0)) ** 2).sum().sqrt())


@pytest.mark.parametrize(("horizon", "measured"), [(2, 0.73), (3, 0.67), (4, 0.57)])
def test_the_ratio_buys_its_bias_with_less_variance_than_dice(horizon, measured):
    problems = [Problem(horizon, seed) for seed in range(20)]
    found = statistics.median(spread(p, ratio_objective, True) / spread(p, dice_of(horizon), False) for p in problems)
    assert found == pytest.approx(measured, rel=0.02)


# ---- the algorithms' own outer gradients ------------------------------------------------------------------------------------


@every_horizon
def test_maml_fomaml_and_promp_give_the_gradient_of_their_kind(problem):
    inner, alpha = problem.together(problem.theta), torch.full_like(problem.theta, ALPHA)
    adapted = adapt(ratio_objective, POLICY, problem.theta, alpha, [inner], create_graph=False).thetas[1].detach()
    outer = problem.together(adapted[0])
    second, first = (OuterProblem(POLICY, ratio_objective, MAMLConfig(), problem.theta, alpha, [inner], [outer], flag).gradient for flag in (False, True))
    promp, _ = OuterObjective(POLICY, ratio_objective, ProMPConfig(), problem.theta, alpha, [inner], [outer]).gradient(problem.theta)
    ratio = problem.meta_gradient(ratio_objective, inner)
    torch.testing.assert_close(second, -ratio, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(first, -problem.meta_gradient(ratio_objective, inner, curved=False), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(promp, -ratio / problem.horizon, rtol=1e-10, atol=1e-12)  # a mean over decisions, where these are sums


@every_horizon
def test_credit_by_returns_is_exact_for_steps_from_single_trajectories(problem):
    """The gradient of E[J(theta + alpha g(trajectory))]: each trajectory is a task of its own, weighted by its probability."""
    segment, alpha = problem.alone(), torch.full_like(problem.theta, ALPHA)
    num = len(segment.obs)

    def after(theta):
        """(T,) expected return of the policy after the step from each trajectory."""
        start = theta.expand(num, -1)
        gradient = torch.autograd.grad(log_prob_objective(POLICY.log_prob(start, segment), segment).sum(), start, create_graph=True)[0]
        return torch.stack([problem.expected_return(x) for x in start + ALPHA * gradient])

    start = leaf(problem.theta)
    right = torch.autograd.grad(problem.probability(start) @ after(start), start)[0]

    chance = problem.probability(problem.theta).unsqueeze(1)
    before = segment._replace(advantage=after(start).detach().unsqueeze(1).expand_as(segment.weight), weight=num * chance * segment.weight)
    adapted = adapt(log_prob_objective, POLICY, problem.theta, alpha, [segment], create_graph=False).thetas[1].detach()
    posts = [problem.together(x) for x in adapted]
    post = Segment(*(torch.cat([getattr(x, name) for x in posts]) for name in Segment._fields[:4]))
    post = post._replace(weight=num * chance * post.weight)
    blind, seeing = (OuterProblem(POLICY, log_prob_objective, MAMLConfig(), problem.theta, alpha, [segment], x, False) for x in ([post], [before, post]))
    torch.testing.assert_close(seeing.gradient, -right, rtol=1e-10, atol=1e-12)
    assert float((blind.gradient + right).norm() / right.norm()) > 0.005
