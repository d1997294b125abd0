"""Fine-tuning's own time: a step through the Trainer and FineTuneModule as a multiple of one in a bare PyTorch loop.

    OMP_NUM_THREADS=1 python benchmarks/finetune.py [--threads 1] [--steps 40] [--repeats 5]
    python benchmarks/finetune.py --device cuda [--precision 16] [--compile] [--data elpv] [--workers 15]

The bare loop and the Trainer's first line train the same network with the same optimiser on the same uint8 batches,
which lie in memory on the device, so neither decoding nor copying counts. Repeats are interleaved, and the ratio is the
median over repeats. The Trainer's second line does what a trial of the ground truth does:
images of ``--data``, decoded and cropped anew in every epoch; its first epoch is not counted. The GPU's utilisation is
the median of nvidia-smi's readings, five per second. ``--compile`` is for the Trainer's lines alone.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import lightning as L
import torch
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from itm.core.console import console
from itm.core.datamodule import TransferData
from itm.core.lightning import no_driver_probe, quiet_lightning
from itm.data.image_set import load_images
from itm.groundtruth.hardware import Hardware
from itm.groundtruth.module import FineTuneModule, FineTuneSettings, train_transform
from itm.models.backbone import Backbone, load_backbone

CLASSES = 10
MODELS = {
    "cpu": (("resnet18", 64, 32), ("test_vit", 160, 32)),
    "cuda": (("resnet18", 224, 64), ("vit_base_patch16_224", 224, 64)),
}
LIGHTNING = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}
AUTOCAST = {"32": None, "bf16": torch.bfloat16, "16": torch.float16}


@dataclass
class Batches:
    """A fixed list of batches as a loader that does no work."""

    batches: list[tuple[Tensor, Tensor]]

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


@dataclass
class Clock(L.Callback):
    """Times each epoch from its first batch to its last, without the Trainer's start and end: seconds per step."""

    steps: list[float] = field(default_factory=list)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start."""
        self.started = now(pl_module.device)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop."""
        self.steps.append((now(pl_module.device) - self.started) / trainer.num_training_batches)


def now(device: torch.device) -> float:
    """Return the time after all work of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


@contextmanager
def utilisation(device: str) -> Iterator[list[float]]:
    """Measure the GPU's utilisation during the block; the list holds percent, if there is a GPU and nvidia-smi."""
    seen: list[float] = []
    if device != "cuda" or shutil.which("nvidia-smi") is None:
        yield seen
        return
    gpu = f"--id=GPU-{torch.cuda.get_device_properties(0).uuid}"
    watch = ["nvidia-smi", gpu, "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "--loop-ms=200"]
    with subprocess.Popen(watch, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield seen
        finally:
            process.terminate()
            seen += [float(line) for line in process.communicate()[0].splitlines() if line.strip().isdigit()]


def fit(backbone: Backbone, data: Any, epochs: int, args: argparse.Namespace, classes: int = CLASSES) -> Clock:
    """Train like a trial of the ground truth, without evaluation."""
    clock = Clock()
    settings = FineTuneSettings(lr=1e-4, weight_decay=1e-2, warmup_epochs=0, compile=args.compile)
    module = FineTuneModule(backbone, classes, settings)
    with quiet_lightning(), no_driver_probe():
        trainer = L.Trainer(
            accelerator=args.device,
            devices=1,
            max_epochs=epochs,
            precision=LIGHTNING[args.precision],  # type: ignore[arg-type]
            limit_train_batches=args.steps,
            limit_val_batches=0,
            enable_checkpointing=False,
            callbacks=[clock],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        if isinstance(data, TransferData):
            trainer.fit(module, datamodule=data)
        else:
            trainer.fit(module, data)
    return clock


def through_trainer(backbone: Backbone, batches: Batches, args: argparse.Namespace) -> Callable[[], float]:
    """Return a function that measures seconds per step of an epoch on batches that lie on the device."""
    return lambda: fit(backbone, batches, 1, args).steps[0]


def from_images(backbone: Backbone, batch_size: int, args: argparse.Namespace) -> tuple[float, list[float]]:
    """Return median seconds per step on images that are decoded meanwhile, and the GPU's utilisation."""
    images = load_images(args.data)
    data = TransferData.from_images(
        images,
        images,
        train_transform=train_transform(backbone),
        eval_transform=backbone.transform,
        batch_size=batch_size,
        workers=Hardware(accelerator=args.device, workers=args.workers).processes,
        pin=args.device == "cuda",
    )
    with utilisation(args.device) as seen:
        clock = fit(backbone, data, args.repeats + 1, args, len(images.classes))
    return statistics.median(clock.steps[1:]), seen


def bare_loop(backbone: Backbone, batches: Batches, args: argparse.Namespace) -> Callable[[], float]:
    """Return a function that measures seconds per step of a plain PyTorch loop."""
    device, dtype = batches.batches[0][0].device, AUTOCAST[args.precision]
    backbone.requires_grad_(True).to(device).train()
    if sum(isinstance(module, nn.Conv2d) for module in backbone.modules()) > 1:
        backbone.to(memory_format=torch.channels_last)
    head = nn.Linear(backbone.dim, CLASSES, device=device)

    def run() -> float:
        optimizer = torch.optim.AdamW([*backbone.parameters(), *head.parameters()], lr=1e-4, fused=True)
        scaler = torch.amp.GradScaler(device.type, enabled=args.precision == "16")
        start = now(device)
        for images, labels in batches:
            with torch.autocast(device.type, dtype, enabled=dtype is not None):
                loss = F.cross_entropy(head(backbone.features(images)), labels)
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        return (now(device) - start) / len(batches)

    return run


@dataclass(frozen=True)
class Result:
    """Median seconds per step, the Trainer's share of the bare loop's speed, and GPU utilisation in percent."""

    bare: float
    tuned: float
    ratio: float
    images: float
    seen: list[float]


def measure(model: str, side: int, batch_size: int, args: argparse.Namespace) -> Result:
    """Time one model in the three ways."""
    generator = torch.Generator().manual_seed(0)
    data = [
        (
            torch.randint(0, 256, (batch_size, 3, side, side), generator=generator).byte().to(args.device),
            torch.randint(0, CLASSES, (batch_size,), generator=generator).to(args.device),
        )
        for _ in range(8)
    ]
    batches = Batches([data[step % len(data)] for step in range(args.steps)])
    rows = [build(load_backbone(model, image_size=side), batches, args) for build in (bare_loop, through_trainer)]
    with no_driver_probe():  # Lightning's import makes every optimiser seek a driver; a bare loop has no Lightning
        rounds = [[run() for run in rows] for _ in range(args.repeats + 1)][1:]  # the first warms up
    bare, tuned = (statistics.median(seconds) for seconds in zip(*rounds, strict=True))
    ratio = statistics.median(b / a for a, b in rounds)
    return Result(bare, tuned, ratio, *from_images(load_backbone(model, image_size=side), batch_size, args))


def row(way: str, seconds: float, share: float, batch_size: int, seen: list[float]) -> tuple[str, ...]:
    """Format one row of the table."""
    busy = f"{statistics.median(seen):.0f} %" if seen else ""
    return way, f"{seconds * 1e3:.1f}", f"{1 / share:.2f}", f"{batch_size / seconds:.0f}", f"{share:.0%}", busy


def main() -> None:
    """Time every model and print the Trainer's share of the bare loop's speed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", choices=MODELS, default="cpu")
    parser.add_argument("--precision", choices=LIGHTNING, help="default: bf16 on cuda, 32 on the CPU")
    parser.add_argument("--compile", action="store_true", help="torch.compile in the Trainer's lines")
    parser.add_argument("--data", default="elpv", help="a dataset's name or a folder, for the line that decodes")
    parser.add_argument("--workers", type=int, help="processes that decode; default: as train_groundtruth.py")
    parser.add_argument("--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS", "1")))
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    args.precision = args.precision or ("bf16" if args.device == "cuda" else "32")
    torch.set_num_threads(args.threads)
    device = torch.cuda.get_device_name() if args.device == "cuda" else f"cpu, {args.threads} thread(s)"
    precision = f"{args.precision}, compiled" if args.compile else args.precision
    table = Table(title=f"{device}, precision {precision}, {args.steps} steps, median of {args.repeats}")
    for header in ("model", "px", "batch", "way", "ms a step", "of bare", "images/s", "share of bare", "GPU"):
        table.add_column(header, justify="left" if header in ("model", "way") else "right")
    for model, side, batch_size in MODELS[args.device]:
        found = measure(model, side, batch_size, args)
        first = model, str(side), str(batch_size)
        table.add_row(*first, *row("bare loop", found.bare, 1.0, batch_size, []))
        table.add_row(*first, *row("Trainer, same batches", found.tuned, 1 / found.ratio, batch_size, []))
        table.add_row(
            *first, *row(f"Trainer, {args.data}", found.images, found.bare / found.images, batch_size, found.seen)
        )
    console().print(table)


if __name__ == "__main__":
    main()
