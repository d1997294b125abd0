"""The contract of every score, checked over all that ``itm.scorers`` exports."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from synthetic import clusters, noise
from torch import Tensor

import itm.scorers
from itm.core.errors import FeatureError, SettingError
from itm.core.features import Features
from itm.scorers import DCD, ITM, KNN, LEAD, NLEEP, PED, SA, SFDA, Combined, LinearProbe, Scorer

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("error::RuntimeWarning")]

SCORERS = sorted(
    # DCD scores conductance by that of other tasks, see test_dcd.py
    (cls for cls in itm.scorers.BY_NAME.values() if cls is not DCD),
    key=lambda cls: cls.name,
)
# ITM splits and draws batches by row number: a permutation is another split of the same images.
SEEDED_BY_POSITION = {ITM}


def build(cls: type[Scorer], pool: dict[str, Features]) -> Scorer:
    """The scorer with its default settings, but for what it cannot do without and what takes long."""
    if cls is ITM:
        return ITM(iterations=20, batch_size=32)
    if cls is Combined:
        return Combined(members=["regularized_hscore", "logme"], form="zscores")
    if cls is PED:
        return PED({name: Features(features.x.detach(), features.y) for name, features in pool.items()})
    return cls()


def scores(cls: type[Scorer], **pool: Features) -> dict[str, float]:
    return build(cls, pool).score(pool)


def pair(cls: type[Scorer], features: Features) -> float:
    """Score beside a fixed second model, so that relative scores have something to say."""
    values = scores(cls, model=features, other=with_logits(clusters(90, 12, 4, spread=0.9, seed=5)))
    return values["model"]


def with_logits(features: Features) -> Features:
    """Logits of a source head of five classes, a fixed function of the features."""
    x = torch.as_tensor(features.x)
    weight = torch.sin(torch.arange(1, 5 * x.shape[1] + 1, dtype=x.dtype)).reshape(x.shape[1], 5)
    return Features(features.x, features.y, x @ weight)


@pytest.fixture
def data() -> Features:
    return with_logits(clusters(90, 12, 4, spread=0.6))


def test_the_registry_has_every_exported_scorer_under_its_name() -> None:
    exported = {value for value in vars(itm.scorers).values() if isinstance(value, type) and hasattr(value, "name")}
    assert set(itm.scorers.BY_NAME.values()) == exported
    assert all(cls.name == name for name, cls in itm.scorers.BY_NAME.items())


def test_every_paper_is_here() -> None:
    words = (
        "emms etran gbc hscore itm knn lead leep linear_probe logme nce ncti nleep parc ped regularized_hscore sa sfda"
    )
    assert {*words.split(), "transrate"} <= {cls.name for cls in SCORERS}


@pytest.mark.parametrize("cls", SCORERS)
def test_default_settings_need_no_argument_and_never_change(cls: type[Scorer]) -> None:
    assert cls() == cls()
    with pytest.raises(AttributeError):
        cls().name = "other"  # type: ignore[misc]


@pytest.mark.parametrize("cls", SCORERS)
def test_a_misspelt_setting_is_named_with_the_scorer(cls: type[Scorer]) -> None:
    with pytest.raises(SettingError, match=rf"scorer\.{cls.name}\.sede"):
        cls(sede=1)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: SFDA(folds=1), r"scorer\.sfda\.folds=1"),
        (lambda: SA(base="ldaa"), r"scorer\.sa\.base=ldaa: not known. Did you mean 'lda'\?"),
        (lambda: PED(base="logm"), r"scorer\.ped\.base=logm: .*'logme'"),
        (lambda: PED(exit_ratio=1.0), r"scorer\.ped\.exit_ratio=1.0"),
        (lambda: KNN(k=0), r"scorer\.knn\.k=0"),
        (lambda: LEAD(time=-1.0), r"scorer\.lead\.time=-1.0"),
        (lambda: LEAD(fit="trian"), r"scorer\.lead\.fit=trian: not known. Did you mean 'train'\?"),
        (lambda: LinearProbe(cost=0.0), r"scorer\.linear_probe\.cost=0.0"),
    ],
)
def test_settings_that_cannot_be_are_refused(build: object, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        build()  # type: ignore[operator]


@pytest.mark.parametrize("cls", SCORERS)
def test_two_runs_agree_and_leave_the_arrays_alone(cls: type[Scorer], data: Features) -> None:
    assert data.logits is not None
    x, y, logits = (part.numpy().copy() for part in (data.x, data.y, data.logits))
    kept = x.copy(), y.copy(), logits.copy()
    torch.manual_seed(1)
    np.random.seed(1)
    first = pair(cls, Features(x, y, logits))
    torch.manual_seed(2)
    np.random.seed(2)
    assert pair(cls, Features(torch.tensor(x), torch.tensor(y), torch.tensor(logits))) == first
    for before, after in zip(kept, (x, y, logits), strict=True):
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("cls", SCORERS)
def test_order_of_rows_does_not_matter(cls: type[Scorer], data: Features) -> None:
    order = torch.randperm(len(data.y), generator=torch.Generator().manual_seed(3))
    assert data.logits is not None
    shuffled = Features(data.x[order], data.y[order], data.logits[order])
    tolerance = 0.25 if cls in SEEDED_BY_POSITION else 1e-7
    assert pair(cls, shuffled) == pytest.approx(pair(cls, data), rel=tolerance, abs=tolerance)


@pytest.mark.parametrize("cls", SCORERS)
def test_names_of_classes_do_not_matter(cls: type[Scorer], data: Features) -> None:
    renamed = Features(data.x, torch.tensor([70, 3, -5, 1000])[data.y], data.logits)
    tolerance = 0.25 if cls in SEEDED_BY_POSITION else 1e-7
    assert pair(cls, renamed) == pytest.approx(pair(cls, data), rel=tolerance, abs=tolerance)


@pytest.mark.parametrize("cls", SCORERS)
def test_single_precision_is_scored_in_double(cls: type[Scorer], data: Features) -> None:
    assert data.logits is not None
    single = Features(data.x.float(), data.y, data.logits.float())
    double = Features(data.x.float().double(), data.y, data.logits.float().double())
    assert pair(cls, single) == pytest.approx(pair(cls, double), rel=1e-9)


@pytest.mark.parametrize("cls", SCORERS)
def test_other_models_matter_only_where_it_is_said(cls: type[Scorer], data: Features) -> None:
    easy = with_logits(clusters(90, 12, 4, spread=3.0))
    hard = with_logits(noise(90, 12, 4))
    alone = scores(cls, data=data)["data"]
    together = scores(cls, easy=easy, data=data, hard=hard)
    assert (together["data"] == alone) == (not cls.relative)
    assert together["easy"] > together["hard"]


@pytest.mark.parametrize("cls", SCORERS)
def test_refusals_name_the_model(cls: type[Scorer], data: Features) -> None:
    damaged = data.x.clone()
    damaged[3, 2] = torch.nan
    with pytest.raises(FeatureError, match=r"^vit_b: .*NaN or infinite in 1 of 90 rows"):
        scores(cls, vit_b=Features(damaged, data.y, data.logits))
    with pytest.raises(FeatureError, match=r"^vit_b: only class 7"):
        scores(cls, vit_b=Features(data.x, torch.full_like(data.y, 7), data.logits))


def _labels(*counts: int) -> Tensor:
    return torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))


EDGES = {
    "constant": Features(torch.full((40, 6), 3.5), torch.arange(40) % 4),
    "zero": Features(torch.zeros(40, 6), torch.arange(40) % 4),
    "dead dimensions": Features(torch.cat([noise(40, 6, 4).x, torch.zeros(40, 6)], dim=1), torch.arange(40) % 4),
    "collinear": Features(noise(40, 3, 4).x.repeat(1, 3), torch.arange(40) % 4),
    "one dimension": Features(noise(40, 1, 4).x, torch.arange(40) % 4),
    "one-sample classes": Features(noise(42, 5, 2).x, _labels(20, 20, 1, 1)),
    "classes of two": Features(noise(40, 5, 2).x, torch.arange(40) % 20),
    "more classes than dimensions": Features(noise(60, 2, 2).x, torch.arange(60) % 12),
    "fewer rows than dimensions": Features(noise(12, 50, 3).x, torch.arange(12) % 3),
    "collapsed": Features(torch.eye(3).repeat(10, 2), torch.arange(30) % 3),
    "two points": Features(torch.eye(2).repeat(8, 1), torch.arange(16) % 2),
    "repeated rows": Features(noise(10, 5, 2).x.repeat(4, 1), torch.arange(40) % 3),
    "large values": Features(1e6 * noise(40, 6, 4).x + 1e8, torch.arange(40) % 4),
    "small values": Features(1e-6 * noise(40, 6, 4).x, torch.arange(40) % 4),
    "only one-sample classes": Features(noise(8, 3, 2).x, torch.arange(8)),
    "two rows": Features(noise(2, 3, 2).x, torch.arange(2)),
    "three rows": Features(noise(3, 3, 2).x, torch.tensor([0, 0, 1])),
}
# Where there is nothing to compare, a score may say so; anywhere else it has to give a number.
MAY_REFUSE = {"only one-sample classes", "two rows", "three rows"}


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("cls", SCORERS)
def test_edges_give_a_finite_score_or_a_clear_refusal(cls: type[Scorer], edge: str) -> None:
    value = outcome(cls, with_logits(EDGES[edge]))
    if isinstance(value, str):
        assert edge in MAY_REFUSE, value
        assert value.startswith("vit_b: ")
    else:
        assert math.isfinite(value)


def outcome(cls: type[Scorer], features: Features) -> float | str:
    try:
        return scores(cls, vit_b=features)["vit_b"]
    except FeatureError as refusal:
        return str(refusal)


def rise(cls: type[Scorer], widths: tuple[int, ...], seeds: int) -> np.ndarray:
    """Scores of features that know nothing, ``[seeds, widths]``; relative scores see all widths of a seed at once."""
    rows = []
    for seed in range(seeds):
        pool = {str(d): with_logits(noise(200, d, 5, seed=100 * seed + d)) for d in widths}
        scorer = ITM() if cls is ITM else build(cls, pool)
        rows.append(list(scorer.score(pool).values()))
    return np.array(rows)


def assert_width_pays_nothing(values: np.ndarray) -> None:
    gain = values[:, 1:] - values[:, :1]
    seed_noise = np.maximum(values[:, 1:].std(0, ddof=1), values[:, 0].std(ddof=1))
    assert (gain.mean(0) <= 2 * seed_noise + 1e-9).all(), (values.mean(0), seed_noise)


@pytest.mark.parametrize("cls", [cls for cls in SCORERS if cls not in (ITM, NLEEP)])
def test_noise_does_not_score_higher_for_being_wider(cls: type[Scorer]) -> None:
    assert_width_pays_nothing(rise(cls, (64, 1024), seeds=6))


@pytest.mark.slow
@pytest.mark.parametrize("cls", SCORERS)
def test_noise_does_not_score_higher_up_to_4096_dimensions(cls: type[Scorer]) -> None:
    assert_width_pays_nothing(rise(cls, (64, 256, 1024, 4096), seeds=3 if cls is ITM else 8))
