"""The hardware that trials run on: settings that do not affect results, and checks of what the device supports."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import Field

from itm.core.errors import SettingError
from itm.core.settings import Count, settings
from itm.extraction.loader import cores

_MOST_WORKERS = 16


@settings("trainer")
class Hardware:
    """Hardware settings; they do not affect results beyond rounding.

    Args:
        accelerator: ``"cpu"`` or ``"cuda"``.
        batch_size: Largest number of images on the device at once; gradients of smaller batches are accumulated.
        workers: Processes that decode images; None takes none on the CPU, and with a GPU one per core but one, at most
            16.
        gradient_checkpointing: Compute activations twice instead of keeping them.
        compile: Compile the network with ``torch.compile``.
    """

    accelerator: Literal["cpu", "cuda"] = "cpu"
    batch_size: Count = 64
    workers: Annotated[int, Field(ge=0)] | None = None
    gradient_checkpointing: bool = False
    compile: bool = False

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Hardware:
        """Build from a run's settings ``trainer``, ``gradient_checkpointing`` and ``compile``, and check the device.

        Raises:
            SettingError: If a value is wrong or this machine does not support it; the message names the setting.
        """
        trainer = settings["trainer"]
        hardware = cls(
            accelerator=trainer["accelerator"],
            batch_size=trainer["batch_size"],
            workers=trainer["workers"],
            gradient_checkpointing=settings["gradient_checkpointing"],
            compile=settings["compile"],
        )
        hardware.check(str(trainer["precision"]))  # a command line gives the number 16
        return hardware

    @property
    def processes(self) -> int:
        """Number of processes that decode images."""
        if self.workers is not None:
            return self.workers
        return 0 if self.accelerator == "cpu" else min(max(1, cores() - 1), _MOST_WORKERS)

    def check(self, precision: str) -> None:
        """Refuse a device that is missing, or a precision that it does not support.

        Raises:
            SettingError: Naming the setting of ``trainer``.
        """
        if self.accelerator == "cpu" and precision == "16":
            raise SettingError("trainer.precision=16: float16 is for GPUs; on the CPU set 32 or bf16.")
        if self.accelerator != "cuda":
            return
        if not torch.cuda.is_available():
            raise SettingError(
                f"trainer.accelerator=cuda: torch {torch.__version__} finds no CUDA device; set trainer=cpu."
            )
        capability = torch.cuda.get_device_capability()
        if capability < (oldest := _oldest_supported()):
            raise SettingError(
                "trainer.accelerator=cuda: this GPU has compute capability {}.{}, torch {} was built for {}.{} and "
                "newer; install a build that supports it, for a V100 torch<2.11.".format(
                    *capability, torch.__version__, *oldest
                )
            )
        if precision == "bf16" and capability < (8, 0):
            raise SettingError("trainer.precision=bf16: this GPU has no bfloat16 units; set trainer=v100.")


def _oldest_supported() -> tuple[int, int]:
    """Return the lowest compute capability that this build of torch has kernels for; ``sm_75`` is (7, 5)."""
    numbers = [int(re.sub(r"\D", "", word)) for word in torch.cuda.get_arch_list()]  # sm_90a, compute_120
    return divmod(min(numbers, default=0), 10)
