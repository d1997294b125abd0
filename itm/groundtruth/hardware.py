"""The machine that cells are trained on: its settings, and what it can do."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from itm.core.errors import SettingError
from itm.extraction.loader import cores


@dataclass(frozen=True)
class Machine:
    """How cells are trained, as far as it does not decide what comes out.

    Args:
        accelerator: ``"cpu"`` or ``"cuda"``.
        batch_size: Most images that are on the device at once; gradients of smaller batches are added up.
        workers: Processes that decode images; None takes none on the CPU, and with a GPU one per core but one, at most
            16.
        gradient_checkpointing: Compute activations twice instead of keeping them.
        compile: Compile the network with ``torch.compile``.
    """

    accelerator: str = "cpu"
    batch_size: int = 64
    workers: int | None = None
    gradient_checkpointing: bool = False
    compile: bool = False

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Machine:
        """The machine of a run's settings ``trainer``, ``gradient_checkpointing`` and ``compile``, checked.

        Raises:
            SettingError: If this machine cannot do it; the message names the setting of ``trainer``.
        """
        trainer = settings["trainer"]
        machine = cls(
            accelerator=trainer["accelerator"],
            batch_size=trainer["batch_size"],
            workers=trainer["workers"],
            gradient_checkpointing=settings["gradient_checkpointing"],
            compile=settings["compile"],
        )
        machine.check(str(trainer["precision"]))  # a command line gives the number 16
        return machine

    @property
    def processes(self) -> int:
        """Number of processes that decode."""
        if self.workers is not None:
            return self.workers
        return 0 if self.accelerator == "cpu" else min(max(1, cores() - 1), 16)

    def check(self, precision: str) -> None:
        """Refuse what this machine cannot do.

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
    """The lowest compute capability that this build of torch has kernels for, ``sm_75`` being (7, 5)."""
    numbers = [int(re.sub(r"\D", "", word)) for word in torch.cuda.get_arch_list()]  # sm_90a, compute_120
    return divmod(min(numbers, default=0), 10)
