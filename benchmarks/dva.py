"""ITM's own time: plain training of the same two layers, the functional simulation, through Lightning, and unrolled.

    python benchmarks/dva.py [--threads 2] [--repeats 5]

Every row trains on the same batches of the same features. Repeats are interleaved and each is compared with the plain
loop of its own round, so that the ratios hold on a machine whose speed changes: the median, and the middle half. The
unrolled row takes fewer iterations and is scaled up. The plain loop is what PyTorch's tutorials write; the one below it
has ITM's optimiser and sampling, too.
"""

import argparse
import os
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from operator import truediv
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from itm.core.datamodule import TransferData
from itm.core.features import Features
from itm.dva.adaptive import adaptive_steps, class_distance
from itm.dva.equations import evolve, evolve_unrolled, pseudo_centers
from itm.dva.module import ITMModule
from itm.dva.scaling import scale_features
from itm.dva.training import fit
from itm.scorers import ITM
from itm.scorers.base import Samples


def features(n: int, d: int, c: int) -> tuple[Tensor, Tensor]:
    """Overlapping classes with a decaying spectrum, scaled as ITM scales them."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(n) % c
    spectrum = (1.0 + torch.arange(d)) ** -0.4
    x = (torch.randn(c, d, generator=generator)[y] * 0.5 + torch.randn(n, d, generator=generator)) * spectrum
    return scale_features(x, torch.arange(n)), y


def indexed(x: Tensor, y: Tensor, batch_size: int, generator: torch.Generator, fast: bool) -> Iterator[Any]:
    """Yield random batches by plain indexing, or by ``index_select`` into one buffer."""
    buffer = x.new_empty(batch_size, x.shape[1])
    while True:
        order = torch.randperm(len(x), generator=generator)
        for start in range(0, len(order) - batch_size + 1, batch_size):
            rows = order[start : start + batch_size]
            yield (torch.index_select(x, 0, rows, out=buffer), y[rows]) if fast else (x[rows], y[rows])


def loop(
    x: Tensor, y: Tensor, iterations: int, step: Callable[[Tensor, Tensor], Tensor], tuned: bool = True
) -> Callable:
    """A PyTorch loop over two linear layers; ``step`` maps the first layer's output to the head's input."""

    def run() -> None:
        torch.manual_seed(0)
        c = int(y.max()) + 1
        first, head = nn.Linear(x.shape[1], c, bias=False), nn.Linear(c, c)
        parameters = [*first.parameters(), *head.parameters()]
        optimizer = torch.optim.AdamW(parameters, lr=5e-3, fused=tuned or None)
        batches = indexed(x, y, 256, torch.Generator().manual_seed(0), fast=tuned)
        for _ in range(iterations):
            xb, yb = next(batches)
            loss = F.cross_entropy(head(step(first(xb), yb)), yb)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return run


def through_lightning(x: Tensor, y: Tensor, iterations: int, n: int) -> Callable:
    """The estimator as scores use it, without its evaluations, which the loops beside it lack."""

    def run() -> None:
        c = int(y.max()) + 1
        module = ITMModule(x.shape[1], pseudo_centers(c, c).float(), steps=n)
        rows = torch.arange(len(x))[None]
        options = {"iterations": iterations, "evaluate_every": iterations}
        fit(module, TransferData.from_features(Features(x, y), rows, rows[:, :256], **options))

    return run


def whole_score(x: Tensor, y: Tensor, iterations: int, seeds: int = 1) -> Callable:
    """The estimator and what is around it: split, dis_phi, scaling, five evaluations; 4/5 of the rows train."""
    samples = Samples(x, y, int(y.max()) + 1)
    scorer = ITM(iterations=iterations, evaluate_every=max(1, iterations // 5))
    return lambda: scorer.evaluate_seeds(samples, range(seeds))


def main() -> None:
    """Time every row and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7, help="at least 2")
    parser.add_argument("--shape", type=int, nargs=3, default=(10_000, 1024, 100), metavar=("N", "D", "C"))
    parser.add_argument("--iterations", type=int, default=500)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if (
        not torch.cuda.is_available()
    ):  # Lightning's import makes optimisers seek a driver; a plain loop has no Lightning
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"

    x, y = features(*args.shape)
    n = adaptive_steps(class_distance(x, y))
    centers = pseudo_centers(args.shape[2], args.shape[2]).float() * float(x.std()) + float(x.mean())
    few = max(1, args.iterations // 25)
    inner = {"eta": 0.01, "steps": n}
    runs = {
        "plain loop": (loop(x, y, args.iterations, lambda t, _: t, tuned=False), 1),
        "plain loop, fused AdamW, index_select": (loop(x, y, args.iterations, lambda t, _: t), 1),
        "DVA, functional": (loop(x, y, args.iterations, lambda t, b: evolve(t, b, centers, **inner)), 1),
        "DVA, through Lightning": (through_lightning(x, y, args.iterations, n), 1),
        "a whole score": (whole_score(x, y, args.iterations), 1),
        "three seeds, stacked": (whole_score(x, y, args.iterations, seeds=3), 1),
        "Algorithm 1, unrolled": (loop(x, y, few, lambda t, b: evolve_unrolled(t, b, centers, **inner)), 25),
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(args.repeats + 1):
        for name, (run, scale) in runs.items():
            start = time.process_time()
            run()
            if repeat:  # the first round warms up
                seconds[name].append((time.process_time() - start) * scale)
    table = Table(
        title=f"N, D, C = {tuple(args.shape)}, {args.iterations} iterations, n = {n}, {args.threads} thread(s)"
    )
    for header in ("", "CPU seconds", "of the plain", "middle half"):
        table.add_column(header, justify="left" if not header else "right")
    for name, values in seconds.items():
        low, middle, high = statistics.quantiles(map(truediv, values, seconds["plain loop"]), method="inclusive")
        table.add_row(name, f"{statistics.median(values):.2f}", f"{middle:.2f}", f"{low:.2f} to {high:.2f}")
    Console().print(table)
    triple, single = seconds["three seeds, stacked"], seconds["a whole score"]
    print(f"Three seeds take {statistics.median(map(truediv, triple, single)):.2f} times the CPU time of one.")
    print(f"Peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    main()
