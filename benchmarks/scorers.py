"""CPU seconds and peak memory of every scorer on 10,000 features of 1,024 dimensions in 100 classes, one thread.

Each measurement runs in a process of its own, after a warm-up on a few rows, so that neither the loading of libraries
nor another scorer's memory counts. CPU seconds stand as they are and as multiples of one float64 product of the
features with themselves, by which any other machine can be compared; what takes less than 3 seconds is run three times
and the shortest counts, since other processes can only make it longer. The authors' seconds were taken on the same data
with their published code, which "as published" reproduces; "default" is what a user gets.

    OMP_NUM_THREADS=1 python benchmarks/scorers.py             # prints the table; about 10 minutes
    OMP_NUM_THREADS=1 python benchmarks/scorers.py sfda ped    # some scorers only
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch

import itm.scorers
from itm.core.features import Features
from itm.scorers import PED, Scorer

N, D, C = 10_000, 1_024, 100
# CPU seconds of the authors' code on the same data, one thread.
AUTHORS = {
    "logme": 2.7,
    "hscore": 2.2,
    "regularized_hscore": 6.4,
    "transrate": 6.5,
    "sfda": 5.2,
    "etran": 3.3,
    "ped": 5.4,
    "gbc": 1.9,
    "ncti": 1.5,
    "emms": 2.2,
    "sa": 2.0,
    "knn": 12.0,
    "parc": 48.0,
    "nleep": 156.0,
}
SCORERS = itm.scorers.BY_NAME
ALONE, PRODUCT, ALL = "features alone", "product", "all"


def large(seed: int = 20261121) -> Features:
    """Rectified Gaussian clusters with a decaying spectrum, and the logits of a source head with 1,000 classes."""
    rng = np.random.default_rng([seed, 8, N, D, C])
    y = np.concatenate([np.arange(C), rng.integers(0, C, size=N - C)])
    rng.shuffle(y)
    spectrum = (1.0 + np.arange(D)) ** -0.4
    centers = np.zeros((C, D))
    centers[:, :32] = 0.9 * rng.standard_normal((C, 32)) * spectrum[:32]
    q, r = np.linalg.qr(rng.standard_normal((D, D)))
    latent = centers[y] + rng.standard_normal((N, D)) * spectrum
    x = np.maximum(latent @ (q * np.sign(np.diag(r))).T + 0.3 * rng.standard_normal(D), 0.0)
    logits = 2.5 * ((x - x.mean(0)) @ rng.standard_normal((D, 1000))) / np.sqrt(D)
    return Features(x, y, logits)


def build(name: str, reference: bool, source: Features) -> Scorer:
    settings: dict[str, object] = {"reference": True} if reference else {}
    if name == PED.name:
        settings["source"] = {"model": source}
    return SCORERS[name](**settings)


def has_reference(name: str) -> bool:
    return "reference" in SCORERS[name].__dataclass_fields__


def measure(task: str, reference: bool, folder: Path) -> dict[str, float]:
    """CPU seconds of one task on fresh features, and the process's peak memory in GiB."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    names = sorted(SCORERS.keys() - {"itm"}) if task == ALL else [task] if task in SCORERS else []
    # Only what a score needs is loaded: it counts towards the peak.
    logits = any("logits" in SCORERS[name].needs for name in names)
    features = Features(*(np.load(folder / f"{part}.npy") for part in ("x", "y", *(["logits"] if logits else []))))
    source = Features(features.x[: N // 5].clone(), features.y[: N // 5])
    few = Features(features.x[:400, :8].clone(), features.y[:400] % 3, features.logits[:400] if logits else None)
    scorers = [build(name, reference and has_reference(name), source) for name in names]
    for name in names:
        build(name, reference and has_reference(name), few).score({"model": few})
    start = time.process_time()
    if task == PRODUCT:
        features.x.T @ features.x
    for scorer in scorers:
        scorer.score({"model": features})
    seconds = time.process_time() - start
    return {"seconds": seconds, "gib": _peak_gib()}


def _peak_gib() -> float:
    # Not getrusage: what it reports a process inherits from the one that started it.
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 2**20


def in_own_process(folder: Path, task: str, reference: bool = False) -> dict[str, float]:
    command = [sys.executable, __file__, "--measure", task, "--data", str(folder)]
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    done = subprocess.run(
        [*command, *(["--reference"] if reference else [])],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env=os.environ | one_thread,
    )
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def table(names: list[str], folder: Path) -> None:
    features = large()
    for part in ("x", "y", "logits"):
        np.save(folder / f"{part}.npy", getattr(features, part).numpy())
    product = min(in_own_process(folder, PRODUCT)["seconds"] for _ in range(5))
    alone = in_own_process(folder, ALONE)["gib"]
    print(f"One product X'X: {product:.2f} s. Libraries and features alone: {alone:.2f} GiB.\n")
    print("| score | authors s | as published s | / product | GiB | default s | / product | GiB |")
    print("|---|---|---|---|---|---|---|---|")
    for name in names:
        cells = [name, f"{AUTHORS[name]:g}" if name in AUTHORS else ""]
        switch = name == ALL or has_reference(name)
        for run in (_shortest(folder, name, True) if switch else None, _shortest(folder, name)):
            cells += _cells(run, product)
        print("| " + " | ".join(cells) + " |", flush=True)


def _shortest(folder: Path, task: str, reference: bool = False) -> dict[str, float]:
    runs = [in_own_process(folder, task, reference)]
    while runs[0]["seconds"] < 3 and len(runs) < 3:
        runs.append(in_own_process(folder, task, reference))
    return min(runs, key=lambda run: run["seconds"])


def _cells(run: dict[str, float] | None, product: float) -> list[str]:
    if run is None:
        return [""] * 3
    return [f"{run['seconds']:.2f}", f"{run['seconds'] / product:.1f}", f"{run['gib']:.2f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"any of: {', '.join(sorted(SCORERS))}, {ALL}")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--reference", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.reference, options.data)))
        return
    if wrong := sorted(set(options.names) - {*SCORERS, ALL}):
        parser.error(f"not known: {', '.join(wrong)}")
    with tempfile.TemporaryDirectory() as folder:
        table(options.names or [*sorted(SCORERS), ALL], Path(folder))


if __name__ == "__main__":
    main()
