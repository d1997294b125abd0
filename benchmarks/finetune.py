"""Fine-tuning's own time: a step through the Trainer and FineTuneModule as a multiple of one in a bare PyTorch loop.

    OMP_NUM_THREADS=1 python benchmarks/finetune.py [--device cuda] [--threads 1] [--steps 40] [--repeats 5]

Both train the same network with the same optimiser on the same uint8 batches, which lie in memory on the device, so
that neither decoding nor copying counts. Repeats are interleaved, and the ratio is the median of each repeat's own.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from itm.backbones import Backbone, load_backbone
from itm.finetune import FineTuneModule
from itm.runtime import no_driver_probe, quiet_lightning

CLASSES = 10
MODELS = {
    "cpu": (("resnet18", 64, 32), ("test_vit", 160, 32)),
    "cuda": (("resnet50", 224, 64), ("vit_base_patch16_224", 224, 64)),
}


@dataclass
class Batches:
    """The same batches again and again, as a loader that does no work."""

    batches: list[tuple[Tensor, Tensor]]

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class Clock(L.Callback):
    """Times an epoch from its first batch to its last, without the Trainer's start and end."""

    seconds = 0.0

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start."""
        self.seconds = -now(pl_module.device)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop."""
        self.seconds += now(pl_module.device)


def now(device: torch.device) -> float:
    """The time when all that was asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def through_trainer(backbone: Backbone, batches: Batches, precision: str) -> Callable[[], float]:
    module = FineTuneModule(backbone, CLASSES, lr=1e-4, weight_decay=1e-2, warmup_epochs=0)
    device = batches.batches[0][0].device.type

    def run() -> float:
        clock = Clock()
        options: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        with quiet_lightning(), no_driver_probe():
            trainer = L.Trainer(
                accelerator=device, devices=1, max_epochs=1, precision=precision, enable_checkpointing=False,
                callbacks=[clock], **options,
            )  # fmt: skip
            trainer.fit(module, batches)
        return clock.seconds

    return run


def bare_loop(backbone: Backbone, batches: Batches, precision: str) -> Callable[[], float]:
    device = batches.batches[0][0].device
    backbone.requires_grad_(True).to(device).train()
    if sum(isinstance(module, nn.Conv2d) for module in backbone.modules()) > 1:
        backbone.to(memory_format=torch.channels_last)
    head = nn.Linear(backbone.dim, CLASSES, device=device)

    def run() -> float:
        optimizer = torch.optim.AdamW([*backbone.parameters(), *head.parameters()], lr=1e-4, fused=True)
        start = now(device)
        for images, labels in batches:
            with torch.autocast(device.type, torch.bfloat16, enabled=precision != "32"):
                loss = F.cross_entropy(head(backbone.pool(images)), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return now(device) - start

    return run


def measure(model: str, side: int, batch_size: int, args: argparse.Namespace) -> tuple[float, float, float]:
    """Median seconds per step of the bare loop, through the Trainer, and their ratio's median."""
    generator = torch.Generator().manual_seed(0)
    data = [
        (
            torch.randint(0, 256, (batch_size, 3, side, side), generator=generator).byte().to(args.device),
            torch.randint(0, CLASSES, (batch_size,), generator=generator).to(args.device),
        )
        for _ in range(8)
    ]
    batches = Batches([data[step % len(data)] for step in range(args.steps)])
    precision = "bf16-mixed" if args.device == "cuda" else "32"
    rows = [build(load_backbone(model, image_size=side), batches, precision) for build in (bare_loop, through_trainer)]
    with no_driver_probe():  # Lightning's import makes every optimiser seek a driver; a bare loop has no Lightning
        rounds = [[run() / args.steps for run in rows] for _ in range(args.repeats + 1)][1:]  # the first warms up
    bare, tuned = (statistics.median(seconds) for seconds in zip(*rounds, strict=True))
    return bare, tuned, statistics.median(b / a for a, b in rounds)


def main() -> None:
    """Time every model and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", choices=MODELS, default="cpu")
    parser.add_argument("--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS", "1")))
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    table = Table(title=f"{args.device}, {args.steps} steps, median of {args.repeats}, {args.threads} thread(s)")
    for header in ("model", "px", "batch", "bare loop, ms", "Trainer, ms", "ratio", "images/s", "share of bare"):
        table.add_column(header, justify="left" if header == "model" else "right")
    for model, side, batch_size in MODELS[args.device]:
        bare, tuned, ratio = measure(model, side, batch_size, args)
        times = f"{bare * 1e3:.1f}", f"{tuned * 1e3:.1f}", f"{ratio:.2f}"
        table.add_row(model, str(side), str(batch_size), *times, f"{batch_size / tuned:.0f}", f"{1 / ratio:.0%}")
    Console().print(table)


if __name__ == "__main__":
    main()
