"""The hardware that trials run on: settings that do not affect results, and checks of what the device supports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from itm.core.devices import Accelerator, check_device
from itm.core.parallel import default_workers
from itm.core.settings import Count, settings


@settings("trainer")
class Hardware:
    """Hardware settings; they do not affect results beyond rounding.

    Args:
        accelerator: ``"cpu"``, ``"cuda"`` or ``"mps"``.
        batch_size: Largest number of images on the device at once; gradients of smaller batches are accumulated.
        workers: Processes that decode images; None takes none on the CPU, and with a GPU one per core but one, at most
            16.
        gradient_checkpointing: Compute activations twice instead of keeping them.
        compile: Compile the network with ``torch.compile``.
    """

    accelerator: Accelerator = "cpu"
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
        return default_workers(self.accelerator)

    def check(self, precision: str) -> None:
        """Refuse a device that is missing, or a precision that it does not support.

        Raises:
            SettingError: Naming the setting of ``trainer``.
        """
        check_device(self.accelerator, precision, accelerator="trainer.accelerator", prefix="trainer.")
