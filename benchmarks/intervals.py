"""Coverage of the bootstrap intervals of rank statistics: how often a 95 % interval holds the true value.

The models of a trial are pairs of truth and score drawn from a bivariate normal distribution. The true value is the
mean of the statistic over 20,000 independent draws of as many models. Run ``python benchmarks/intervals.py``; about
ten minutes on one core.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd

from itm.core.console import print_frame
from itm.metrics import functional
from itm.metrics.uncertainty import Statistic, over_subsets, resamples

MODELS = (6, 8, 10, 14, 20)
CORRELATIONS = (0.3, 0.6, 0.9)
TRIALS, SAMPLES = 400, 1_000
STATISTICS: dict[str, Statistic] = {
    "tau_w (scipy)": functional.weighted_kendall_tau,
    "tau_w (paper)": partial(functional.weighted_kendall_tau, definition="paper"),
    "Kendall tau": functional.kendall_tau,
    "Spearman rho": functional.spearman_rho,
    "Pearson r": functional.pearson_r,
    "recall@3": partial(functional.recall_at_k, k=3),
    "regret": functional.regret,
}


def draw(rng: np.random.Generator, trials: int, models: int, correlation: float) -> tuple[np.ndarray, np.ndarray]:
    """Draw truths and scores ``[trials, models]`` with a given correlation."""
    truth, noise = rng.standard_normal((2, trials, models))
    return truth, correlation * truth + np.sqrt(1 - correlation**2) * noise


def coverage(statistic: Statistic, models: int, correlation: float) -> float:
    """Share of trials whose percentile interval holds the statistic's mean."""
    rng = np.random.default_rng(0)
    true = statistic(*draw(rng, 20_000, models, correlation)).mean()
    held = 0
    for trial, (truth, scores) in enumerate(zip(*draw(rng, TRIALS, models, correlation), strict=True)):
        values = over_subsets(resamples(models, SAMPLES, seed=trial), truth, scores, statistic=statistic)
        low, high = np.quantile(values, [0.025, 0.975])
        held += low <= true <= high
    return held / TRIALS


def main() -> None:
    """Print the coverage by statistic, number of models and correlation."""
    rows = {
        (name, correlation): {models: coverage(statistic, models, correlation) for models in MODELS}
        for name, statistic in STATISTICS.items()
        for correlation in CORRELATIONS
    }
    frame = pd.DataFrame.from_dict(rows, orient="index").rename(columns="{} models".format)
    frame.index = [f"{name}, r = {correlation}" for name, correlation in frame.index]
    print_frame(frame, "Coverage of the 95 % bootstrap interval", digits=2)


if __name__ == "__main__":
    main()
