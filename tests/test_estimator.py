"""ITM on small features: what it learns, its settings, its seeds and its stability."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor

import itm
from itm.core.batches import BatchChunks, OrderedBatches, RandomBatches
from itm.core.datamodule import TransferData
from itm.core.errors import FeatureError, SettingError
from itm.core.features import Features
from itm.dva.adaptive import class_distance
from itm.dva.equations import pseudo_centers
from itm.dva.module import ITMModule
from itm.dva.scaling import scale_features
from itm.dva.training import fit
from itm.scorers import ITM
from itm.scorers.base import check

SHORT = {"batch_size": 32, "iterations": 120, "evaluate_every": 40}


def clusters(separation: float, n: int = 200, dim: int = 16, classes: int = 4, seed: int = 0) -> Features:
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % classes
    centers = torch.randn(classes, dim, generator=generator)
    return Features(separation * centers[y] + torch.randn(n, dim, generator=generator), y)


def score(features: Features, **settings) -> float:
    return ITM(**(SHORT | settings)).score({"model": features})["model"]


def test_separable_features_score_high_and_noise_scores_at_chance():
    good, noise = score(clusters(4.0)), score(clusters(0.0))
    assert good > 0.95
    assert noise < 0.5
    assert score(clusters(0.8)) < good


def test_the_score_depends_on_the_seed_and_not_on_the_global_generator():
    features = clusters(0.5)
    first = ITM(**SHORT, seed=3).evaluate({"model": features})["model"]
    torch.manual_seed(123)
    state = torch.random.get_rng_state()
    again = ITM(**SHORT, seed=3).evaluate({"model": features})["model"]
    assert first.details["losses"] == again.details["losses"]
    assert first.value == again.value
    assert torch.equal(torch.random.get_rng_state(), state), "scoring moved the caller's random state"
    other = ITM(**SHORT, seed=4).evaluate({"model": features})["model"]
    assert first.details["losses"] != other.details["losses"]


def test_details_say_what_was_done():
    features = clusters(2.0)
    result = ITM(**SHORT, n_b=7).evaluate({"model": features})["model"]
    details = result.details
    assert list(details["curve"]) == [40, 80, 120]
    assert result.value == max(details["curve"].values())
    assert details["n"] == math.ceil(math.log(details["distance"]) / -math.log(0.99)) + 7
    assert details["distance"] == pytest.approx(class_distance(features.x, features.y), rel=0.05)
    assert details["capped"] == 0
    assert 0 < details["eta_lambda_max"] < 2
    assert result.seconds > 0


def test_likelihood_is_minus_the_least_heldout_loss():
    features = clusters(0.5)
    accuracy, likelihood = (
        ITM(**SHORT, measure=measure).evaluate({"model": features})["model"] for measure in ("accuracy", "likelihood")
    )
    assert accuracy.details == likelihood.details, "the training is the same"
    assert likelihood.value == -min(likelihood.details["heldout_losses"].values())
    assert accuracy.value == max(likelihood.details["curve"].values())


def test_the_last_iteration_is_scored_where_the_interval_misses_it():
    result = ITM(batch_size=32, iterations=50, evaluate_every=20).evaluate({"model": clusters(2.0)})["model"]
    assert list(result.details["curve"]) == [20, 40, 50]
    short = ITM(batch_size=32, iterations=5, evaluate_every=100).evaluate({"model": clusters(2.0)})["model"]
    assert list(short.details["curve"]) == [5]


def test_unrolled_from_the_identity_gives_the_closed_form_s_training():
    features = clusters(1.0)
    runs = [
        ITM(**SHORT, steps=12, evolution=evolution).evaluate({"model": features})["model"].details["losses"]
        for evolution in ("closed_form", "unrolled")
    ]
    assert list(runs[0].values()) == pytest.approx(list(runs[1].values()), rel=1e-3)


@pytest.mark.parametrize(
    "settings",
    [
        {"loss": "mae"},
        {"loss": "ce", "steps": 30},
        {"centers": "random"},
        {"centers": "pca"},
        {"centers": "laplacian"},
        {"shift": False},
        {"dim": 20},
        {"standardize": "rms"},
        {"steps": 5},
        {"scaling": "l2"},
        {"scaling": "standardize"},
        {"heldout": "plain"},
        {"stability": "error"},
        {"stability": "off"},
        {"batch_size": 1},
        {"batch_size": 100_000},
    ],
    ids=lambda settings: "-".join(f"{key}={value}" for key, value in settings.items()),
)
def test_every_setting_runs_and_separates_signal_from_noise(settings):
    settings = SHORT | settings
    good, noise = clusters(3.0), clusters(0.0)
    assert score(good, **settings) > score(noise, **settings) + 0.2


def test_a_random_inner_map_that_is_not_trained_to_the_end_hides_the_signal():
    # a new map for every batch: the head meets other axes each time
    settings = {"evolution": "unrolled_random", "steps": 20}
    assert score(clusters(3.0), **settings) < score(clusters(3.0)) - 0.2


def test_raw_features_of_large_scale_need_the_cap():
    features = clusters(3.0)
    raw = Features(features.x * 100, features.y)
    settings = SHORT | {"scaling": "none"}
    capped = ITM(**settings).evaluate({"model": raw})["model"]
    assert capped.details["capped"] > 0
    assert capped.details["eta_lambda_max"] > 2
    with pytest.raises(FeatureError, match=r"model: stability=error: eta \* lambda_max is"):
        score(raw, **settings, stability="error")
    assert score(raw) == pytest.approx(score(features), abs=0.05), "the default does not depend on the unit"


@pytest.mark.parametrize("measure", ["accuracy", "likelihood"])
def test_diverged_training_gives_no_score(measure):
    features = clusters(3.0)
    raw = Features(features.x * 100, features.y)
    with pytest.raises(FeatureError, match=r"^model: stability=off: training of seed 5 diverged within 40 batches"):
        score(raw, scaling="none", stability="off", measure=measure, seed=5)


def test_an_outer_autocast_changes_nothing():
    pool = {"model": clusters(0.8)}
    alone = itm.rank(pool, ITM(**SHORT))
    with torch.autocast("cpu", torch.bfloat16):
        within = itm.rank(pool, ITM(**SHORT))
    assert within.entries[0].details["losses"] == alone.entries[0].details["losses"]
    assert within.scores == alone.scores


SEEDS = [3, 4, 9]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"batch_size": 10_000, "standardize": "rms", "scaling": "standardize"},
        {"centers": "random", "scaling": "l2", "measure": "likelihood"},
        {"loss": "mae", "steps": 20, "heldout": "plain"},
        {"evolution": "unrolled_random", "steps": 10},
        {"scaling": "none", "eta": 50.0},  # some batches are capped
    ],
    ids=lambda settings: "-".join(f"{key}={value}" for key, value in settings.items()) or "default",
)
def test_seeds_that_train_side_by_side_score_as_each_alone(settings):
    features = clusters(0.8, n=150)
    together = ITM(**(SHORT | settings)).evaluate_seeds(check("model", features), SEEDS)
    for seed, score in zip(SEEDS, together, strict=True):
        alone = ITM(**(SHORT | settings), seed=seed).evaluate_one(check("model", features))
        assert score.details["n"] == alone.details["n"]
        assert score.details["capped"] == alone.details["capped"]
        for curve in ("losses", "heldout_losses"):
            assert score.details[curve] == pytest.approx(alone.details[curve], rel=1e-3)
        assert score.value == pytest.approx(alone.value, abs=1 / 30)  # one held-out row
    assert len({tuple(score.details["losses"].values()) for score in together}) == 3


def test_seeds_with_groups_and_seeds_that_fill_the_memory_score_as_each_alone(monkeypatch):
    features = clusters(0.8, n=60)
    grouped = Features(features.x, features.y, groups=torch.arange(60) // 5)
    expected = [ITM(**SHORT, seed=seed).evaluate_one(check("model", grouped)).value for seed in SEEDS]
    assert [score.value for score in ITM(**SHORT).evaluate_seeds(check("model", grouped), SEEDS)] == expected
    stacked = ITM(**SHORT).evaluate_seeds(check("model", features), SEEDS)
    monkeypatch.setattr("itm.scorers.itm._MOST_VALUES", 2 * 32 * 16)  # two seeds at a time
    chunked = ITM(**SHORT).evaluate_seeds(check("model", features), SEEDS)
    assert [score.value for score in chunked] == pytest.approx([score.value for score in stacked], abs=1 / 12)


def test_scaling_takes_its_statistics_from_the_training_rows():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(30, 5, generator=generator) * 3 + 4
    train = torch.arange(20)
    unit = scale_features(x, train, "unit")
    torch.testing.assert_close(unit[:20].mean(dim=0), torch.zeros(5), atol=1e-6, rtol=0)
    assert float(unit[:20].norm(dim=1).mean()) == pytest.approx(1.0, rel=1e-5)
    standard = scale_features(x, train, "standardize")
    torch.testing.assert_close(standard[:20].std(dim=0, correction=0), torch.ones(5))
    torch.testing.assert_close(scale_features(x, train, "l2").norm(dim=1), torch.ones(30))
    assert scale_features(x, train, "none") is x
    assert not torch.equal(scale_features(x, torch.arange(30), "unit"), unit)


@pytest.mark.parametrize("scaling", ["unit", "standardize", "l2", "none"])
@pytest.mark.parametrize("value", [0.0, 1 / 3, 1e4])
def test_constant_features_give_a_finite_score(scaling, value):
    features = Features(torch.full((40, 6), value), torch.arange(40) % 2)
    assert 0 <= score(features, scaling=scaling) <= 1
    if scaling in ("unit", "standardize"):
        assert scale_features(features.x, torch.arange(40), scaling).abs().max() == 0


@pytest.mark.parametrize(
    "features",
    [
        clusters(2.0, n=12, dim=50, classes=3),  # N < D
        clusters(2.0, n=60, dim=3, classes=10),  # D < C
        Features(torch.randn(9, 4), torch.tensor([0] * 8 + [1])),  # one class with one sample
        Features(torch.randn(3, 4), torch.tensor([0, 1, 2])),  # every class with one sample
        Features(torch.randn(2, 1), torch.tensor([5, -3])),
    ],
    ids=["N<D", "D<C", "one-sample class", "one sample each", "two rows"],
)
def test_small_data_give_a_finite_score(features):
    assert 0 <= score(features) <= 1


def test_groups_are_not_split():
    y = torch.arange(40) % 2
    groups = torch.arange(40) // 4
    x = torch.nn.functional.one_hot(groups).float() * 10  # the group decides everything, the class nothing
    assert score(Features(x, y, groups=groups)) <= 0.75


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"batch_size": 0}, r"scorer\.itm\.batch_size=0"),
        ({"iterations": -1}, r"scorer\.itm\.iterations=-1"),
        ({"eta": 0.0}, r"scorer\.itm\.eta=0\.0"),
        ({"eta": "x"}, r"scorer\.itm\.eta=x"),
        ({"n_b": 2.5}, r"scorer\.itm\.n_b=2\.5"),
        ({"loss": "mes"}, "scorer.itm.loss=mes.*Did you mean 'mse'"),
        ({"centers": "one-hot"}, "scorer.itm.centers=one-hot.*Did you mean 'onehot'"),
        ({"evolution": "closed"}, "scorer.itm.evolution"),
        ({"heldout": "evolve"}, "Did you mean 'evolved'"),
        ({"measure": "accurracy"}, "scorer.itm.measure=accurracy.*Did you mean 'accuracy'"),
        ({"stability": "caps"}, "Did you mean 'cap'"),
        ({"scaling": "units"}, "Did you mean 'unit'"),
        ({"standardize": "dim"}, "scorer.itm.standardize"),
        ({"accelerator": "gpu"}, "scorer.itm.accelerator=gpu"),
        ({"train_fraction": 1.5}, "scorer.itm.train_fraction"),
        ({"dim": 2}, "dim=2"),
    ],
)
def test_impossible_settings_are_named_as_typed(settings, words):
    with pytest.raises(SettingError, match=words):
        score(clusters(1.0), **settings)


def module_for(features: Features, **settings) -> ITMModule:
    return ITMModule(features.dim, pseudo_centers(4, 4).float(), steps=30, **settings)


def test_module_trains_with_lightning_and_logs():
    features = clusters(2.0)
    module = module_for(features)
    before = module.w_z.detach().clone()
    rows = torch.arange(200)[None]
    data = TransferData.from_features(features, rows, rows, batch_size=64, iterations=40, evaluate_every=10)
    (trace,) = fit(module, data)
    assert list(trace.curve) == [10, 20, 30, 40]
    assert trace.losses[40] < trace.losses[10]
    assert module.w_z.shape == (1, 16, 4)
    assert not torch.equal(module.w_z, before)
    assert module(features.x[None]).shape == (1, 200, 4)
    # evaluated in batches of 64, each of which evolves by itself
    (batches,) = data.val_dataloader()
    with torch.no_grad():
        logits, classes = zip(*((module(x, y)[0], y[0]) for x, y in batches), strict=True)
    logits, classes = torch.cat(logits), torch.cat(classes)
    assert len(classes) == 200
    assert trace.curve[40] == pytest.approx(float((logits.argmax(dim=1) == classes).double().mean()))
    nats = -torch.log_softmax(logits, dim=1)[torch.arange(200), classes].mean()
    assert trace.heldout_losses[40] == pytest.approx(float(nats), rel=1e-5)


def test_gradient_reaches_w_z_through_the_evolution():
    features = clusters(1.0)
    module = module_for(features, eta=0.5)
    x, y = features.x[None], features.y[None]

    def gradient(steps: int) -> Tensor:
        module.steps = [steps]
        module.zero_grad()
        torch.nn.functional.cross_entropy(module(x, y)[0], y[0]).backward()
        return module.map.grad.clone()

    assert gradient(30).abs().max() > 0
    assert not torch.allclose(gradient(30), gradient(0))


def test_random_batches_pass_over_every_row_before_any_comes_again():
    x, rows = torch.arange(12.0)[:, None], torch.tensor([[*range(10)], [*range(2, 12)]])
    generators = [torch.Generator().manual_seed(seed) for seed in range(2)]
    batches = iter(RandomBatches(x, torch.arange(12), rows, 3, generators))
    # a batch overwrites the one before
    shown = [(x.clone(), y) for x, y in (next(batches) for _ in range(6))]
    assert all(torch.equal(x[..., 0].long(), y) for x, y in shown)
    for epoch in (shown[:3], shown[3:]):
        for seed in range(2):
            seen = torch.cat([y[seed] for _, y in epoch]).unique()
            assert len(seen) == 9
            assert set(seen.tolist()) <= set(rows[seed].tolist())
    whole = RandomBatches(x, torch.arange(12), rows, 99, generators)
    assert next(iter(whole))[0].shape == (2, 10, 1)
    assert whole.batch_size == 10


def test_ordered_batches_keep_the_last_one_s_size():
    batches = OrderedBatches(torch.zeros(10, 2), torch.arange(10), torch.arange(10)[None], 4)
    assert [y.shape for _, y in batches] == [(1, 4), (1, 4), (1, 2)]
    assert torch.cat([y for _, y in batches], dim=1).tolist() == [[*range(10)]]
    assert len(batches) == 3


def test_chunks_continue_where_the_last_one_ended():
    chunks = BatchChunks(zip(range(9), range(9), strict=True), total=8, size=3)
    assert [[x for x, _ in chunk] for chunk in chunks] == [[0, 1, 2], [3, 4, 5], [6, 7]]
    assert len(chunks) == 3


def test_settings_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        ITM().eta = 0.1
