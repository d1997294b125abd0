"""LEAD: support vector machines, kernel and evolution, against scikit-learn, autograd and an ODE solver."""

from __future__ import annotations

import itertools
import math
import warnings

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp, softmax
from sklearn.svm import LinearSVC
from synthetic import clusters, noise, one
from torch import Tensor

from itm.core.features import Features
from itm.scorers import LEAD, lead
from itm.scorers.common import svm
from itm.scorers.common.svm import one_vs_rest_svm

pytestmark = pytest.mark.usefixtures("one_thread")


def test_machines_are_those_of_scikit_learn() -> None:
    data = clusters(80, 6, 3, spread=0.5)
    x, y = data.x.numpy(), data.y.numpy()
    ours = one_vs_rest_svm(torch.cat([data.x, torch.ones(80, 1)], dim=1), data.y, 3).numpy()
    theirs = LinearSVC(C=1.0, dual=False, tol=1e-9, max_iter=10000).fit(x, y)
    np.testing.assert_allclose(ours[:-1].T, theirs.coef_, atol=1e-5)
    np.testing.assert_allclose(ours[-1], theirs.intercept_, atol=1e-5)


@pytest.mark.parametrize("d", [30, 300])
def test_machines_reach_the_minimum_with_more_dimensions_than_rows(d: int) -> None:
    data = clusters(40, d, 3, spread=0.2)
    x = torch.cat([data.x.double() * torch.logspace(0, 2, d), torch.ones(40, 1)], dim=1)
    weights = one_vs_rest_svm(x, data.y, 3).requires_grad_()
    signs = 2.0 * torch.nn.functional.one_hot(data.y, 3).double() - 1
    loss = weights.square().sum() / 2 + (1 - signs * (x @ weights)).clamp_min(0).square().sum()
    (gradient,) = torch.autograd.grad(loss, weights)
    assert float(gradient.norm()) < 1e-7 * float((x.T @ signs).norm())


@pytest.mark.parametrize(("n", "d", "classes"), [(40, 300, 3), (150, 60, 12)])
def test_machines_are_those_of_a_converged_liblinear(n: int, d: int, classes: int) -> None:
    """More dimensions than rows, and many classes with more rows than dimensions."""
    data = clusters(n, d, classes, spread=0.2)
    x = torch.cat([data.x, torch.ones(n, 1)], dim=1)
    ours = one_vs_rest_svm(x, data.y, classes).numpy()
    theirs = LinearSVC(C=1.0, fit_intercept=False, tol=1e-10, max_iter=10**6).fit(x.numpy(), data.y.numpy())
    np.testing.assert_allclose(ours.T, theirs.coef_, atol=1e-6 * np.abs(theirs.coef_).max())


def test_conjugate_gradients_only_save_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where float32 overflows they are left out, and the minimum is the same."""
    data = clusters(90, 20, 4, spread=0.3)
    expected = one_vs_rest_svm(data.x, data.y, 4)
    for weights in (torch.full((4, 20), torch.inf), torch.randn(4, 20, generator=torch.Generator().manual_seed(0))):
        monkeypatch.setattr(svm, "_conjugate_gradients", lambda *_, weights=weights: weights)
        torch.testing.assert_close(one_vs_rest_svm(data.x, data.y, 4), expected, rtol=1e-9, atol=1e-12)


def liblinear(x: Tensor, y: Tensor, num_classes: int) -> Tensor:
    machines = LinearSVC(C=1.0, fit_intercept=False, tol=1e-8, max_iter=10**6).fit(x.numpy(), y.numpy())
    assert len(machines.coef_) == num_classes
    return torch.from_numpy(machines.coef_.T)


def test_the_order_of_models_is_that_of_converged_machines_and_the_same_for_all_seeds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spreads = (0.05, 0.15, 0.25, 0.35)
    pool = {str(spread): clusters(60, 200, 3, spread) for spread in spreads}  # more dimensions than rows
    scores = [LEAD(seed=seed).score(pool) for seed in range(6)]
    assert {tuple(sorted(found, key=found.__getitem__)) for found in scores} == {tuple(pool)}
    monkeypatch.setattr(lead, "one_vs_rest_svm", liblinear)
    assert LEAD(seed=2).score(pool) == pytest.approx(scores[2], abs=1e-5)


@pytest.mark.parametrize("bias", [True, False])
def test_kernel_trace_is_the_squared_gradient(bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lead, "_HIDDEN", (6, 7))
    x = noise(5, 4, 2).x
    weights = [w.requires_grad_() for w in lead.random_network(4, 3, 0, bias)]
    w1, w2, w3, b1, b2 = weights
    b3 = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    for row, trace in zip(x, lead.kernel_trace(x, 3, 0, bias), strict=True):
        out = ((row @ w1 + b1).relu() @ w2 + b2).relu() @ w3 + b3
        counted = [*weights, b3] if bias else [w1, w2, w3]
        gradients = torch.autograd.grad(out.sum(), counted)
        assert float(trace) == pytest.approx(sum(float(g.square().sum()) for g in gradients))
    if not bias:
        torch.testing.assert_close(lead.kernel_trace(3 * x, 3, 0, False), 9 * lead.kernel_trace(x, 3, 0, False))


def test_squared_loss_evolution_solves_its_equation() -> None:
    logits, y = noise(6, 3, 3).x, torch.arange(6) % 3
    target, start, rate = np.eye(3)[y], softmax(logits.numpy(), axis=1), 0.7
    solution = solve_ivp(
        lambda _, f: (-rate * (f.reshape(6, 3) - target)).ravel(), (0, 2), start.ravel(), rtol=1e-11, atol=1e-12
    )
    end = solution.y[:, -1].reshape(6, 3)
    np.testing.assert_allclose(end.sum(1), 1)
    ours = lead.evolve_mse(logits, y, torch.full((6,), 2 * rate, dtype=torch.float64))
    np.testing.assert_allclose(ours.exp().numpy(), end[np.arange(6), y], rtol=1e-8)


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("rate", [0.3, 40.0])
def test_cross_entropy_evolution_solves_its_equation(classes: int, rate: float) -> None:
    logits, y = 3 * noise(4, classes, 2).x, torch.arange(4) % classes
    ours = lead.evolve_ce(logits, y, torch.full((4,), rate, dtype=torch.float64)).numpy()
    for row in range(4):
        z = logits[row].numpy()
        m0 = z[y[row]] - logsumexp(np.delete(z, y[row])) + math.log(classes - 1)
        m = solve_ivp(lambda _, m: rate * classes / (np.exp(m) + classes - 1), (0, 1), [m0], rtol=1e-10, atol=1e-12)
        expected = m.y[0, -1] - logsumexp([m.y[0, -1], math.log(classes - 1)])
        assert ours[row] == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("evolve", [lead.evolve_mse, lead.evolve_ce])
def test_evolution_goes_from_the_logits_to_the_labels(evolve: object) -> None:
    logits, y = torch.cat([noise(6, 3, 3).x, torch.tensor([[0.0, 800.0, 0.0]]).double()]), torch.arange(7) % 3
    times = [evolve(logits, y, torch.full((7,), t, dtype=torch.float64)) for t in (0.0, 0.1, 1.0, 30.0, 1e6)]  # type: ignore[operator]
    torch.testing.assert_close(times[0], logits.log_softmax(1)[torch.arange(7), y])
    assert all((later >= earlier).all() for earlier, later in itertools.pairwise(times))
    assert all((t <= 0).all() for t in times)
    assert float(times[-1].min()) > -1e-3


def test_softening_is_the_likeliest_factor() -> None:
    logits, y = 6 * noise(60, 3, 3).x + 3 * torch.eye(3)[torch.arange(60) % 3], torch.arange(60) % 3
    best = minimize_scalar(
        lambda f: float((f * logits).log_softmax(1)[torch.arange(60), y].sum()) * -1, bounds=(0, 1), method="bounded"
    ).x
    assert lead.softening(logits, y) == pytest.approx(best, abs=1e-5)
    assert lead.softening(torch.eye(3)[y].double(), y) == 1.0


def test_lead_rates() -> None:
    data = clusters(60, 5, 3)
    scorers = LEAD(), LEAD(rate_scale="sqnorm")
    by_kernel, by_norm = (scorer.evaluate({"m": data})["m"].details["rates"] for scorer in scorers)
    assert np.mean(by_kernel) == pytest.approx(1)
    squares = data.x.square().sum(1)
    means = np.array([float(squares[data.y == k].mean()) for k in range(3)])
    np.testing.assert_allclose(by_norm, means / means.mean())
    with pytest.warns(UserWarning, match="leaves nothing of the logits"):
        value = one(LEAD(rate_scale="lr"), Features(1e6 * data.x, data.y))
    assert value == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert one(LEAD(fit="train"), data) > one(LEAD(), data)
