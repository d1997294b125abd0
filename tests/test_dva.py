"""The equations against explicit steps, autograd of the stated inner losses and cases worked by hand."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from itm.core.errors import FeatureError, SettingError
from itm.dva.adaptive import adaptive_steps, class_distance
from itm.dva.closed_form import closed_form, geometric_sum
from itm.dva.equations import (
    evolve,
    evolve_unrolled,
    largest_eigenvalue,
    pseudo_centers,
)

SHAPES = [(40, 12), (12, 40), (1, 5)]  # B > p, B < p, one row


def problem(batch: int, p: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, float]:
    """Float64 embeddings, classes, shifted centers, and an eta well inside the stable range."""
    generator = torch.Generator().manual_seed(seed)
    theta = torch.randn(batch, p, dtype=torch.float64, generator=generator)
    y = torch.randint(0, 4, (batch,), generator=generator)
    centers = pseudo_centers(4, p, "random", mean=0.1, std=0.5, generator=generator)
    return theta, y, centers, 0.5 / largest_eigenvalue(theta)


def gradients(function, w_z: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
    """Value of ``function(E W_z)`` and the gradient that a fixed random weighting of it sends to ``W_z``."""
    w_z = w_z.clone().requires_grad_()
    value = function(e @ w_z)
    weights = torch.randn(value.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    (value * weights.to(value)).sum().backward()
    return value.detach(), w_z.grad


@pytest.mark.parametrize(("batch", "p"), SHAPES)
@pytest.mark.parametrize("steps", [0, 1, 2, 3, 6, 7, 64, 365])
def test_closed_form_equals_explicit_steps_in_value_and_gradient(batch, p, steps):
    e = torch.randn(batch, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    w_z = torch.randn(9, p, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    _, y, centers, _ = problem(batch, p)
    eta = 1.9 / largest_eigenvalue(e @ w_z)  # nearly the whole stable range

    def explicit(theta: Tensor) -> Tensor:
        c = theta @ theta.T / len(theta)
        evolved = theta
        for _ in range(steps):
            evolved = evolved - eta * c @ (evolved - centers[y])
        return evolved

    expected, expected_gradient = gradients(explicit, w_z, e)
    for function in (
        lambda theta: evolve(theta, y, centers, eta=eta, steps=steps),
        lambda theta: evolve_unrolled(theta, y, centers, eta=eta, steps=steps),
    ):
        value, gradient = gradients(function, w_z, e)
        torch.testing.assert_close(value, expected, rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-8, atol=1e-8)


def conditioned(batch: int, p: int, largest: float) -> tuple[Tensor, Tensor]:
    """Embeddings and targets whose ``K`` at ``eta=1`` has ``largest`` as its largest eigenvalue and many near zero."""
    generator = torch.Generator().manual_seed(5)
    theta = torch.randn(batch, p, dtype=torch.float64, generator=generator) * torch.logspace(0, -4, p)
    theta = theta * (largest / largest_eigenvalue(theta)) ** 0.5
    return theta, torch.randn(batch, p, dtype=torch.float64, generator=generator)


def explicit_mse(theta: Tensor, target: Tensor, steps: int) -> Tensor:
    evolved = theta
    for _ in range(steps):
        evolved = evolved - theta @ (theta.T @ (evolved - target)) / len(theta)
    return evolved


@pytest.mark.parametrize("largest", [0.001, 0.02, 0.3, 1.95])
@pytest.mark.parametrize(("batch", "p"), [(16, 6), (6, 16)])
def test_closed_form_is_exact_for_every_number_of_steps(batch, p, largest):
    theta, target = conditioned(batch, p, largest)
    evolved = theta
    for steps in range(401):
        torch.testing.assert_close(closed_form(theta, target, 1.0, steps), evolved, rtol=0, atol=1e-10)
        evolved = evolved - theta @ (theta.T @ (evolved - target)) / batch


# the polynomial alone, its degree below and at its limit, and doublings after it with and without odd digits
PATHS = [(0, 0.5), (1, 0.5), (5, 0.0), (39, 0.01), (354, 0.002), (354, 0.02), (355, 0.06), (33, 0.6), (511, 1.95)]


@pytest.mark.parametrize(("batch", "p"), [(60, 20), (20, 60)])
@pytest.mark.parametrize(("steps", "largest"), PATHS)
def test_every_path_of_the_geometric_sum_has_exact_gradients(batch, p, steps, largest):
    theta, target = conditioned(batch, p, largest)
    identity = torch.eye(p, dtype=torch.float64)
    expected = gradients(lambda t: explicit_mse(t, target, steps), identity, theta)
    exact = gradients(lambda t: closed_form(t, target, 1.0, steps), identity, theta)
    single = gradients(lambda t: closed_form(t, target.float(), 1.0, steps), identity.float(), theta.float())
    for a, b, c in zip(exact, expected, single, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)
        # rounding adds up over the steps, most at the edge of the stable range
        atol = (1e-4 if largest < 1 else 5e-4) * float(b.abs().max())
        torch.testing.assert_close(c.double(), b, rtol=0, atol=atol)


@pytest.mark.parametrize(("scale", "most"), [(0.03, 1e-6), (1, 1e-5), (5, 2e-4)])
def test_float32_gradients_agree_with_float64(scale, most):
    generator = torch.Generator().manual_seed(0)
    theta = scale * torch.randn(256, 100, dtype=torch.float64, generator=generator)
    target = pseudo_centers(100, 100, mean=0.01, std=0.5)[torch.arange(256) % 100]

    def gradient(dtype: torch.dtype) -> Tensor:
        leaf = theta.to(dtype).clone().requires_grad_()
        weights = torch.randn(256, 100, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        (closed_form(leaf, target.to(dtype), 0.01, 354) * weights.to(dtype)).sum().backward()
        return leaf.grad.double()

    exact = gradient(torch.float64)
    assert float((gradient(torch.float32) - exact).abs().max() / exact.abs().max()) < most


@pytest.mark.parametrize(("batch", "p"), [(20, 8), (8, 20)])
def test_stacked_problems_equal_each_alone(batch, p):
    problems = [conditioned(batch, p, largest) for largest in (0.01, 0.3, 1.9, 0.05)]
    theta, target = (torch.stack(parts).requires_grad_() for parts in zip(*problems, strict=True))
    onto = torch.randn(4, 3, p, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    eta, steps = torch.tensor([1.0, 0.5, 0.9, 0.3], dtype=torch.float64), [354, 7, 101, 0]
    together = closed_form(theta, target, eta, steps, onto)
    together.square().sum().backward()
    for i, (t, e) in enumerate(problems):
        t.requires_grad_()
        alone = closed_form(t, e, float(eta[i]), steps[i], onto[i])
        torch.testing.assert_close(together[i], alone, rtol=1e-10, atol=1e-10)
        alone.square().sum().backward()
        torch.testing.assert_close(theta.grad[i], t.grad, rtol=1e-9, atol=1e-9)


def test_doubling_is_exact_far_beyond_the_stable_range_and_passes_on_what_is_not_finite():
    eigenvalues = torch.tensor([40.0, 20.0, 6.0, 2e-8, 0.0], dtype=torch.float64)
    k = torch.diag(eigenvalues)[None]
    expected = sum((1 - eigenvalues) ** i for i in range(13))
    torch.testing.assert_close(geometric_sum(k, 13)[0].diagonal(), expected, rtol=1e-10, atol=1e-10)
    assert geometric_sum(k * math.nan, 13).isnan().all()
    assert geometric_sum(k * math.inf, 13).isnan().all()


def test_gradient_reaches_only_what_asks_for_it():
    theta, target = conditioned(30, 10, 0.01)
    both = [theta.clone().requires_grad_(), target.clone().requires_grad_()]
    closed_form(*both, 1.0, 100).sum().backward()
    for i in range(2):
        alone = [theta.clone(), target.clone()]
        alone[i].requires_grad_()
        closed_form(*alone, 1.0, 100).sum().backward()
        assert torch.equal(alone[i].grad, both[i].grad)
        assert alone[1 - i].grad is None


@pytest.mark.parametrize(("batch", "p"), [(8, 5), (5, 8)])
def test_closed_form_passes_gradcheck(batch, p):
    theta, y, centers, eta = problem(batch, p)
    centers = centers.clone().requires_grad_()
    torch.autograd.gradcheck(
        lambda t, c: evolve(t, y, c, eta=eta, steps=11), (theta.requires_grad_(), centers), atol=1e-6
    )


def inner_loss(loss: str, evolved: Tensor, y: Tensor, centers: Tensor) -> Tensor:
    match loss:
        case "mse":
            return 0.5 * (evolved - centers[y]).square().sum() / len(y)
        case "mae":
            return (evolved - centers[y]).abs().sum() / len(y)
        case _:
            return F.cross_entropy(evolved @ centers.T, y)


@pytest.mark.parametrize("loss", ["mse", "mae", "ce"])
@pytest.mark.parametrize(("batch", "p"), SHAPES)
def test_evolution_is_gradient_descent_on_the_stated_inner_loss(loss, batch, p):
    theta, y, centers, eta = problem(batch, p)
    w_g = torch.eye(p, dtype=torch.float64)
    for _ in range(25):
        w_g = w_g.requires_grad_()
        (slope,) = torch.autograd.grad(inner_loss(loss, theta @ w_g, y, centers), w_g)
        w_g = (w_g - eta * slope).detach()
    value = evolve(theta, y, centers, eta=eta, steps=25, loss=loss)
    torch.testing.assert_close(value, theta @ w_g, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("loss", ["mae", "ce"])
@pytest.mark.parametrize(("batch", "p"), [(10, 6), (6, 10)])
def test_gradients_of_mae_and_ce_match_the_unrolled_loop(loss, batch, p):
    theta, y, centers, eta = problem(batch, p)
    identity = torch.eye(p, dtype=torch.float64)
    ours = gradients(lambda t: evolve(t, y, centers, eta=eta, steps=30, loss=loss), identity, theta)
    loop = gradients(lambda t: evolve_unrolled(t, y, centers, eta=eta, steps=30, loss=loss), identity, theta)
    for a, b in zip(ours, loop, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("steps", [0, 1, 6])
@pytest.mark.parametrize(("batch", "p"), [(9, 4), (4, 6)])
def test_ce_passes_gradcheck_for_embeddings_and_logit_centers(batch, p, steps):
    theta, y, centers, _ = problem(batch, p)
    u = torch.randn(len(centers), p, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def run(theta, u):
        return evolve(theta, y, centers, eta=0.3, steps=steps, loss="ce", logit_centers=u)

    torch.autograd.gradcheck(run, (theta.requires_grad_(), u.requires_grad_()))


def test_ce_takes_its_logits_from_the_unshifted_centers():
    theta, y, _, eta = problem(10, 6)
    unshifted = pseudo_centers(4, 6)
    shifted = pseudo_centers(4, 6, mean=3.0, std=0.2)
    settings = {"eta": eta, "steps": 5, "loss": "ce"}
    torch.testing.assert_close(
        evolve(theta, y, shifted, logit_centers=unshifted, **settings), evolve(theta, y, unshifted, **settings)
    )


def test_evolution_reaches_the_least_squares_fit_of_the_centers():
    theta, y, centers, eta = problem(40, 6)
    target = centers[y]
    fit = theta @ torch.linalg.lstsq(theta, target).solution
    torch.testing.assert_close(evolve(theta, y, centers, eta=eta, steps=100_000), fit, rtol=1e-6, atol=1e-6)


def test_float32_stays_close_to_float64():
    theta, y, centers, eta = problem(256, 100)
    exact = evolve(theta, y, centers, eta=eta, steps=365)
    assert (evolve(theta.float(), y, centers, eta=eta, steps=365) - exact).abs().max() < 1e-4


def test_divergence_begins_beyond_two_over_the_largest_eigenvalue():
    theta, y, centers, _ = problem(40, 12)
    limit = 2 / largest_eigenvalue(theta)
    assert evolve(theta, y, centers, eta=0.99 * limit, steps=2000).abs().max() < 10
    assert evolve(theta, y, centers, eta=1.01 * limit, steps=2000).abs().max() > 1e6


@pytest.mark.parametrize(("batch", "p"), SHAPES)
def test_largest_eigenvalue_is_that_of_c(batch, p):
    theta, *_ = problem(batch, p)
    expected = float(torch.linalg.eigvalsh(theta @ theta.T / batch)[-1])
    assert largest_eigenvalue(theta) == pytest.approx(expected, rel=1e-10)
    assert math.isnan(largest_eigenvalue(theta * math.inf))


def test_random_start_differs_between_seeds_and_repeats_with_one():
    theta, y, centers, eta = problem(10, 6)

    def start(seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return evolve_unrolled(theta, y, centers, eta=eta, steps=3, init="random", generator=generator)

    assert torch.equal(start(1), start(1))
    assert not torch.allclose(start(1), start(2))


@pytest.mark.parametrize("scheme", ["onehot", "random", "pca", "laplacian"])
@pytest.mark.parametrize(("num_classes", "dim"), [(2, 2), (5, 5), (3, 20), (1, 4)])
def test_centers_are_orthonormal_before_the_shift(scheme, num_classes, dim):
    generator = torch.Generator().manual_seed(0)
    plain = pseudo_centers(num_classes, dim, scheme, generator=generator)
    torch.testing.assert_close(plain @ plain.T, torch.eye(num_classes, dtype=torch.float64), rtol=0, atol=1e-10)
    shifted = pseudo_centers(num_classes, dim, scheme, mean=2.0, std=0.3, generator=generator.manual_seed(0))
    torch.testing.assert_close(shifted, plain * 0.3 + 2.0)


def test_eq_9_worked_by_hand():
    # log_0.99(1 / 0.99^-5) is 5 exactly; one per mille more needs a sixth step
    assert adaptive_steps(0.99**-5, n_b=20) == 25
    assert adaptive_steps(0.99**-5 * 1.001, n_b=20) == 26
    assert adaptive_steps(1.0, n_b=20) == 20
    # sqrt(1280) = 35.777: ln 35.777 / -ln 0.99 = 355.97
    assert adaptive_steps(math.sqrt(1280)) == 376
    assert adaptive_steps(4.0, eta=0.5, n_b=0) == 2
    assert adaptive_steps(4.0, eta=0.5, n_b=0, reference=2.0) == 1
    # tighter than the reference: the logarithm is negative and n is clamped
    assert adaptive_steps(0.5, n_b=20) == 1
    assert adaptive_steps(0.0, n_b=3) == 3


def test_class_distance_worked_by_hand():
    # one dimension, standardised to -1 and 1; class 0 sits at -1 and 1, class 1 at its own mean
    x = torch.tensor([[0.0], [4.0], [0.0], [4.0]])
    assert class_distance(x, torch.tensor([0, 0, 1, 1])) == pytest.approx(1.0)
    assert class_distance(x, torch.tensor([0, 1, 0, 1])) == 0.0
    wide = torch.randn(4000, 300, generator=torch.Generator().manual_seed(0))
    y = torch.arange(4000) % 2
    assert class_distance(wide, y) == pytest.approx(math.sqrt(300), rel=0.01)
    assert class_distance(wide, y, "rms") == pytest.approx(1.0, rel=0.01)
    assert class_distance(wide * 7 + 3, y) == pytest.approx(class_distance(wide, y), rel=1e-5)


def test_constant_dimensions_add_nothing_to_the_distance():
    x = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    y = torch.arange(50) % 3
    padded = torch.cat([x, torch.full((50, 2), 7.0)], dim=1)
    assert class_distance(padded, y) == pytest.approx(class_distance(x, y))


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: pseudo_centers(5, 4), SettingError, "at least 5"),
        (lambda: pseudo_centers(2, 4, std=0), SettingError, "positive"),
        (lambda: pseudo_centers(2, 4, "one_hot"), SettingError, "Did you mean 'onehot'"),
        (lambda: adaptive_steps(2.0, eta=1.0), SettingError, "eta=1.0"),
        (lambda: adaptive_steps(2.0, reference=0.0), SettingError, "reference"),
        (lambda: adaptive_steps(math.nan), FeatureError, "nan"),
        (lambda: class_distance(torch.tensor([[math.nan]]), torch.tensor([0])), FeatureError, "NaN"),
        (lambda: class_distance(torch.zeros(2, 1), torch.tensor([0, 2])), FeatureError, "without gaps"),
        (lambda: class_distance(torch.zeros(1, 1), torch.tensor([0]), "std"), SettingError, "standardize"),
        (lambda: evolve(*problem(4, 4)[:3], eta=0.1, steps=1, loss="mes"), SettingError, "Did you mean 'mse'"),
        (lambda: evolve(*problem(4, 4)[:3], eta=0.0, steps=1), SettingError, "positive"),
        (lambda: evolve(*problem(4, 4)[:3], eta=0.1, steps=-1), SettingError, "steps=-1"),
        (lambda: evolve_unrolled(*problem(4, 4)[:3], eta=0.1, steps=1, loss="l1"), SettingError, "loss"),
        (lambda: evolve_unrolled(*problem(4, 4)[:3], eta=0.1, steps=1, init="zero"), SettingError, "init"),
    ],
)
def test_impossible_settings_are_refused_by_name(call, error, words):
    with pytest.raises(error, match=words):
        call()


@pytest.mark.parametrize(("batch", "p"), [(12, 5), (5, 12)])
@pytest.mark.parametrize("loss", ["mse", "mae", "ce"])
def test_a_layer_behind_the_evolution_may_be_part_of_it(loss, batch, p):
    theta, y, centers, eta = problem(batch, p)
    layer = torch.randn(3, p, dtype=theta.dtype, generator=torch.Generator().manual_seed(3))
    settings = {"eta": eta, "steps": 11, "loss": loss}
    results = []
    for through in (
        lambda t, c, h: evolve(t, y, c, onto=h, **settings),
        lambda t, c, h: evolve(t, y, c, **settings) @ h.T,
    ):
        inputs = [tensor.clone().requires_grad_() for tensor in (theta, centers, layer)]
        value = through(*inputs)
        weights = torch.randn(value.shape, dtype=theta.dtype, generator=torch.Generator().manual_seed(4))
        grads = torch.autograd.grad((value * weights).sum(), inputs, allow_unused=True)
        results.append([value, *(grad for grad in grads if grad is not None)])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
