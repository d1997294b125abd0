"""Accelerators and precisions: which this machine has, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, get_args

import torch

from itm.core.errors import SettingError, unknown

Accelerator = Literal["cpu", "cuda", "mps"]
Precision = Literal["32", "bf16", "16"]
PrecisionChoice = Literal["auto", "32", "bf16", "16"]
"""Precision of extraction, where ``"auto"`` leaves it to :func:`itm.extraction.precision.choose_precision`."""

DTYPES = {"bf16": torch.bfloat16, "16": torch.float16}
"""Type of mixed precision; ``"32"`` has none."""
_BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}  # of x86 and of ARM


def check_device(device: str, precision: str, *, accelerator: str = "device", prefix: str = "") -> None:
    """Refuse an accelerator or a precision that this machine cannot run.

    Args:
        device: ``"cpu"``, ``"cuda"``, ``"cuda:<number>"`` or ``"mps"`` (Apple's GPUs).
        precision: ``"32"``, ``"bf16"`` or ``"16"``.
        accelerator: The setting that gave the device, as the user typed it.
        prefix: What stands before ``precision`` in the settings, such as ``"trainer."``.

    Raises:
        SettingError: Naming the setting and what this machine can do.
    """
    kind, _, number = device.partition(":")
    if kind not in get_args(Accelerator) or (number and kind != "cuda"):
        raise unknown(accelerator, device, get_args(Accelerator))
    if precision not in get_args(Precision):
        raise unknown(f"{prefix}precision", precision, get_args(Precision))
    if kind == "cpu" and precision == "16":
        raise SettingError(f"{prefix}precision=16: float16 needs a GPU; on the CPU set {prefix}precision=bf16 or 32.")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise SettingError(f"{accelerator}=mps: torch {torch.__version__} finds no Apple GPU; set {accelerator}=cpu.")
    if kind == "cuda":
        _check_cuda(device, number, precision, accelerator, prefix)


def has_bf16_units(device: str) -> bool:
    """Return whether a device that this machine has multiplies bfloat16 numbers faster than float32."""
    kind = device.partition(":")[0]
    if kind == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return kind == "cpu" and not _BF16_FLAGS.isdisjoint(_cpu_flags())


def _cpu_flags() -> set[str]:
    """Return the features of the processor as Linux lists them; empty on other systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return set()
    listed = [line.partition(":")[2] for line in lines if line.lower().startswith(("flags", "features"))]
    return set(" ".join(listed).split())


def _check_cuda(device: str, number: str, precision: str, accelerator: str, prefix: str) -> None:
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0:
        found = f"torch {torch.__version__} finds no CUDA device"
        raise SettingError(f"{accelerator}={device}: {found}; set {accelerator}=cpu.")
    if number and not (number.isdigit() and int(number) < count):
        raise SettingError(f"{accelerator}={device}: this machine has cuda:0 to cuda:{count - 1}.")
    capability, oldest = torch.cuda.get_device_capability(device), _oldest_supported()
    if capability < oldest:
        raise SettingError(
            f"{accelerator}={device}: this GPU has compute capability {capability[0]}.{capability[1]}, torch "
            f"{torch.__version__} was built for {oldest[0]}.{oldest[1]} and newer; install a build that supports it, "
            "for a V100 torch<2.11."
        )
    if precision == "bf16" and capability < (8, 0):
        raise SettingError(f"{prefix}precision=bf16: this GPU has no bfloat16 units; set {prefix}precision=16 or 32.")


def _oldest_supported() -> tuple[int, int]:
    """Return the lowest compute capability that this build of torch has kernels for, ``sm_75`` being (7, 5)."""
    numbers = [int(re.sub(r"\D", "", word)) for word in torch.cuda.get_arch_list()]  # sm_90a, compute_120
    return divmod(min(numbers, default=0), 10)
