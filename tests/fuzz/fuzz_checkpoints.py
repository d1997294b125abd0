"""Load odd and damaged checkpoints; report every hang, traceback, run of code and growth of memory.

Run by hand: ``python tests/fuzz/fuzz_checkpoints.py --count 500 --seed 0``. A case fails if it takes more than twenty
seconds, ends in anything but a backbone or an ItmError of one line, runs code of the file, or grows memory by 500 MB.
"""

from __future__ import annotations

import argparse
import pickle
import resource
import signal
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import safetensors.torch
import timm
import torch

from itm.core.errors import ItmError
from itm.models import load_backbone

SECONDS, MEGABYTES = 20, 500
MODELS = ("test_vit", "test_resnet", "test_efficientnet", "test_convnext2", "test_byobnet")
Weights = dict[Any, Any]
Rng = np.random.Generator


class HangError(Exception):
    """A case took too long."""


class RunsCode:
    """Pickles as a call that creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return Path.touch, (self.path,)  # type: ignore[return-value]


def _weights(model: str) -> Weights:
    torch.manual_seed(0)
    return dict(timm.create_model(model, num_classes=5).state_dict())


def _name(weights: Weights, rng: Rng) -> Any:
    return list(weights)[rng.integers(len(weights))]


def _odd_value(rng: Rng) -> Any:
    values: list[Any] = [
        torch.tensor(1.0), torch.empty(0), torch.zeros(1, 1, 1, 1, 1), torch.zeros(3, dtype=torch.complex64),
        torch.zeros(2, dtype=torch.bool), torch.full((4,), torch.nan), torch.zeros(2, 2).to_sparse(), None, 3, "text",
        [1, 2], {"a": 1}, np.float32(1), torch.zeros(2, 2, device="meta"), torch.zeros(1).expand(2**40, 8),
        torch.quantize_per_tensor(torch.ones(2, 2), 0.1, 0, torch.qint8), torch.full((5, 3), -torch.inf),
    ]  # fmt: skip
    return values[rng.integers(len(values))]


def _replace(weights: Weights, rng: Rng) -> Weights:
    return {**weights, _name(weights, rng): _odd_value(rng)}


def _delete(weights: Weights, rng: Rng) -> Weights:
    dropped = {_name(weights, rng) for _ in range(rng.integers(1, 6))}
    return {name: value for name, value in weights.items() if name not in dropped}


def _add(weights: Weights, rng: Rng) -> Weights:
    names: list[Any] = [1, None, ("a", 2), "", ".", "a..b", "fc.1.weight", "head.weight", "mask_token", "é", "x" * 5000]
    return {**weights, names[rng.integers(len(names))]: _odd_value(rng)}


def _prefix(weights: Weights, rng: Rng) -> Weights:
    prefix = ("model.", "module.", "_orig_mod.", "a.b.c.d.", ".", "head.", "é.")[rng.integers(7)]
    return {f"{prefix}{name}": value for name, value in weights.items()}


def _reshape(weights: Weights, rng: Rng) -> Weights:
    name = _name(weights, rng)
    value = weights[name]
    if not isinstance(value, torch.Tensor) or value.ndim == 0:
        return weights
    changed = (value.flatten(), value[None], value[:1], value.T if value.ndim == 2 else value, value[..., :0])
    return {**weights, name: changed[rng.integers(5)]}


def _cast(weights: Weights, rng: Rng) -> Weights:
    kind = (torch.float16, torch.bfloat16, torch.float64, torch.int8)[rng.integers(4)]
    return {name: value.to(kind) if isinstance(value, torch.Tensor) else value for name, value in weights.items()}


def _keep(weights: Weights, rng: Rng) -> Weights:
    return weights


def _hold(weights: Weights, rng: Rng) -> Any:
    holders: list[Any] = ["student", "ema", "params", "backbone", "state_dict", "model", "net", "model_state_dict"]
    holders += ["state_dict_ema", "model_ema", "teacher", "weights", 7]
    content: dict[Any, Any] = {holders[rng.integers(len(holders))]: weights, "epoch": 3, "args": {"lr": 0.1}}
    pair = {"student": weights, "teacher": weights}
    return (content, [weights], {"a": content}, weights, (weights,), None, {}, pair)[rng.integers(8)]


_CHANGES = (_keep, _replace, _delete, _add, _prefix, _reshape, _cast)


def write(path: Path, trap: Path, rng: Rng, model: str) -> str:
    """Write one file and return how it was made."""
    change = _CHANGES[rng.integers(len(_CHANGES))]
    weights = change(_weights(model), rng)
    form = ("torch", "held", "torch", "held", "safetensors", "pickle", "code", "bytes")[rng.integers(8)]
    if form == "bytes":
        path.write_bytes(rng.bytes(int(rng.integers(0, 400))))
    elif form == "code":
        torch.save({**weights, "run": RunsCode(trap)}, path)
    elif form == "pickle":
        path.write_bytes(pickle.dumps(weights))
    elif form == "safetensors":
        tensors = {str(name): value for name, value in weights.items() if isinstance(value, torch.Tensor)}
        plain = {name: value for name, value in tensors.items() if not (value.is_sparse or value.is_quantized)}
        dense = {name: value.contiguous() for name, value in plain.items() if 0 <= value.numel() < 2**20}
        dense = {name: value for name, value in dense.items() if not value.is_meta}
        safetensors.torch.save_file(dense, path)
    else:
        torch.save(_hold(weights, rng) if form == "held" else weights, path)
    if rng.random() < 0.25:
        content = bytearray(path.read_bytes())
        for _ in range(int(rng.integers(1, 20))):
            if content:
                content[rng.integers(len(content))] = rng.integers(256)
        path.write_bytes(content[: int(rng.integers(len(content) + 1))] if rng.random() < 0.5 else content)
        form += ", damaged"
    return f"{model}, {change.__name__.strip('_')}, {form}"


def check(count: int, seed: int) -> tuple[Counter[str], list[str]]:
    """Load every case; returns the number of cases by outcome, and one text per failure."""
    counts: Counter[str] = Counter()
    failures = []
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    signal.signal(signal.SIGALRM, _raise_hang)
    with tempfile.TemporaryDirectory() as folder:
        trap = Path(folder) / "code-ran"
        for number in range(count):
            rng = np.random.default_rng([seed, number])
            model = MODELS[rng.integers(len(MODELS))]
            path = Path(folder) / ("w.pth", "w.safetensors", "w.ckpt", "w.pt")[rng.integers(4)]
            made = write(path, trap, rng, model)
            outcome = _load(model, path, image_size=(None, None, 32, 64)[rng.integers(4)])
            if trap.exists():
                outcome = "code ran"
                trap.unlink()
            counts[outcome if outcome in ("loaded", "refused") else "failed"] += 1
            if outcome not in ("loaded", "refused"):
                failures.append(f"case {number} ({made}): {outcome}")
            path.unlink()
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base) / 1024
    if grown > MEGABYTES:
        failures.append(f"memory grew by {grown:.0f} MB")
    return counts, failures


def _load(model: str, path: Path, image_size: int | None) -> str:
    signal.alarm(SECONDS)
    try:
        load_backbone("m", model=model, checkpoint=str(path), image_size=image_size)
    except ItmError as error:
        return "refused" if "\n" not in str(error) else f"more than one line: {error}"
    except HangError:
        return f"hang of more than {SECONDS} s"
    except Exception:
        return traceback.format_exc()
    finally:
        signal.alarm(0)
    return "loaded"


def _raise_hang(number: int, frame: FrameType | None) -> None:
    raise HangError


def main() -> None:
    """Run the cases of the command line; exits with status 1 if one fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    counts, failures = check(chosen.count, chosen.seed)
    print(*failures, sep="\n")
    print(dict(counts))
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
