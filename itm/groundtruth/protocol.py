"""The protocol of fine-tuning: what decides an accuracy beside the images, the model and the cell's own settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from types import UnionType
from typing import Any, Literal

from itm.core.errors import SettingError, unknown


def check_number(
    setting: str, value: object, expected: str, fits: Callable[[Any], bool], kind: type | UnionType = int | float
) -> None:
    """Refuse what is no number or does not fit.

    Raises:
        SettingError: Naming the setting, what was expected and what was found.
    """
    if isinstance(value, bool) or not isinstance(value, kind) or not fits(value):
        raise SettingError(f"{setting}={value}: expected {expected}.")


@dataclass(frozen=True)
class Protocol:
    """What all cells of a grid share, whatever the model.

    Args:
        epochs: Passes over the training images.
        batch_size: Images of one optimiser step.
        schedule: Of the learning rate: ``"cosine"`` or ``"constant"``.
        warmup_epochs: Epochs over which the learning rate rises to its value.
        label_smoothing: Share of the label that is spread over all classes.
        crop_scale: Least and largest share of a training image's area that a random crop takes.
        flip: Whether training images are mirrored at random.
        rank: Rank of LoRA's updates.
        prompts: Number of VPT's prompts.
        precision: ``"32"``, ``"bf16"`` or ``"16"``.
        image_size: Side that every model sees instead of its own, pixels.
        limit: Size of the sample of the training images, or None for all.
        test_limit: Size of the sample of the test images, or None for all.
        name: A word for people, no part of the identity; by default :attr:`label` makes one.

    Raises:
        SettingError: If a setting has a value that it cannot take; the message begins with ``protocol.<setting>``.
    """

    epochs: int = 100
    batch_size: int = 64
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_epochs: float = 5.0
    label_smoothing: float = 0.0
    crop_scale: tuple[float, float] = (0.08, 1.0)
    flip: bool = True
    rank: int = 8
    prompts: int = 10
    precision: Literal["32", "bf16", "16"] = "32"
    image_size: int | None = None
    limit: int | None = None
    test_limit: int | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        for key in ("epochs", "batch_size", "rank", "prompts"):
            check_number(f"protocol.{key}", getattr(self, key), "a whole number of at least 1", lambda n: n >= 1, int)
        check_number("protocol.label_smoothing", self.label_smoothing, "0 or more, less than 1", lambda x: 0 <= x < 1)
        check_number(
            "protocol.warmup_epochs",
            self.warmup_epochs,
            f"0 or more, less than protocol.epochs={self.epochs}",
            lambda x: 0 <= x < self.epochs,
        )
        if self.schedule not in (allowed := ("cosine", "constant")):
            raise unknown("protocol.schedule", self.schedule, allowed)
        if not isinstance(self.flip, bool):
            raise SettingError(f"protocol.flip={self.flip}: expected true or false.")
        scale = tuple(self.crop_scale) if isinstance(self.crop_scale, list | tuple) else ()
        if len(scale) != 2 or not all(isinstance(x, int | float) for x in scale) or not 0 < scale[0] <= scale[1] <= 1:
            raise SettingError(
                f"protocol.crop_scale={self.crop_scale}: expected two shares of the area, 0 < least <= largest <= 1, "
                "as in [0.08,1.0]."
            )
        object.__setattr__(self, "crop_scale", tuple(map(float, scale)))
        object.__setattr__(self, "warmup_epochs", float(self.warmup_epochs))

    def identity(self) -> dict[str, Any]:
        """All settings but the name."""
        settings = asdict(self)
        del settings["name"]
        return settings

    def overrides(self) -> dict[str, int]:
        """What of it changes every entry of a zoo."""
        return {} if self.image_size is None else {"image_size": self.image_size}

    @property
    def label(self) -> str:
        """The name, or the settings that differ most from run to run: ``"100ep-64px-1000train"``."""
        sizes = ((self.image_size, "px"), (self.limit, "train"), (self.test_limit, "test"))
        words = (f"{self.epochs}ep", *(f"{size}{unit}" for size, unit in sizes if size is not None))
        return self.name or "-".join(words)
