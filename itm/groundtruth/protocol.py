"""The fine-tuning protocol: everything besides images, model and the trial's own settings that decides an accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any, Literal

from pydantic import Field, Strict

from itm.core.devices import Precision
from itm.core.errors import SettingError
from itm.core.settings import Count, NonNegative, settings

Adaptation = Literal["full", "linear", "lora", "vpt", "vpt_deep", "bitfit", "zero_shot"]
"""Weights of the backbone that train, see :mod:`itm.groundtruth.adaptation`; ``"zero_shot"``: nothing trains."""
Schedule = Literal["cosine", "constant"]
"""Course of the learning rate after the warm-up."""
Select = Literal["test", "validation"]
"""The images that choose the best epoch and the best setting."""
Keep = Literal["nothing", "weights"]
"""Result of a grid besides accuracies: nothing, or the weights of each model's best trial."""

OPTIMISTIC = "best epoch and setting chosen on the test split (optimistic)"
"""Note beside every accuracy of ``select="test"``."""
VALIDATED = "best epoch and setting chosen on a fifth of the training split"
"""Note beside every accuracy of ``select="validation"``."""
UNTUNED = "nothing is trained or chosen (zero-shot, by prompts of class names)"
"""Note beside every zero-shot accuracy."""


@settings("protocol")
class Protocol:
    """The settings that all trials of a grid share, for every model.

    Args:
        epochs: Passes over the training images.
        batch_size: Images per optimiser step.
        schedule: Learning-rate schedule: ``"cosine"`` or ``"constant"``.
        warmup_epochs: Epochs of linear warm-up of the learning rate.
        label_smoothing: Share of the label that is spread over all classes.
        crop_scale: Least and largest share of a training image's area that a random crop takes.
        flip: Whether training images are mirrored at random.
        rank: Rank of LoRA's updates.
        prompts: Number of VPT's prompts.
        precision: ``"32"``, ``"bf16"`` or ``"16"``.
        image_size: Side of every model's input in place of its own, pixels.
        limit: Size of the sample of the training images, or None for all.
        test_limit: Size of the sample of the test images, or None for all.
        select: ``"test"``: the accuracy on the test split chooses the best epoch and setting, as in the paper, which
            is optimistic. ``"validation"``: a stratified fifth of the training split chooses them and does not train.
        templates: Prompts of zero-shot accuracy, with ``{}`` for the name of the class; None where a network trains.
        name: Name for tables, not part of the identity; :attr:`label` makes one by default.

    Raises:
        SettingError: If a setting has a value that it cannot take; the message begins with ``protocol.<setting>``.
    """

    epochs: Count = 100
    batch_size: Count = 64
    schedule: Schedule = "cosine"
    warmup_epochs: NonNegative = 5.0
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    crop_scale: Annotated[tuple[float, ...], Strict(False)] = (0.08, 1.0)  # a YAML list is converted
    flip: bool = True
    rank: Count = 8
    prompts: Count = 10
    precision: Precision = "32"
    image_size: Count | None = None
    limit: Count | None = None
    test_limit: Count | None = None
    select: Select = "test"
    templates: Annotated[tuple[str, ...] | None, Strict(False)] = None  # a YAML list is converted
    name: str | None = None

    def __post_init__(self) -> None:
        if self.warmup_epochs >= self.epochs:
            raise SettingError(
                f"protocol.warmup_epochs={self.warmup_epochs}: expected 0 or more, less than "
                f"protocol.epochs={self.epochs}."
            )
        if len(self.crop_scale) != 2 or not 0 < self.crop_scale[0] <= self.crop_scale[1] <= 1:
            raise SettingError(
                f"protocol.crop_scale={list(self.crop_scale)}: expected two shares of the area, "
                "0 < least <= largest <= 1, as in [0.08,1.0]."
            )

    def identity(self) -> dict[str, Any]:
        """Return all settings but the name, as they enter a trial's digest.

        ``select`` is left out at ``"test"`` and ``templates`` at None, so that records from before these settings stay
        valid.
        """
        found = asdict(self)
        del found["name"]
        if self.select == "test":
            del found["select"]
        if self.templates is None:
            del found["templates"]
        return found

    @classmethod
    def zero_shot(cls, templates: tuple[str, ...], **shared: Any) -> Protocol:
        """Build the protocol of a trial without training.

        Args:
            templates: Prompts with ``{}``.
            shared: ``image_size``, ``precision``, ``limit``, ``test_limit`` and ``name``; settings of the training do
                not decide the accuracy and have one value for all trials.
        """
        return cls(epochs=1, warmup_epochs=0.0, templates=templates, **shared)

    def overrides(self) -> dict[str, int]:
        """Return the settings that replace those of every zoo entry."""
        return {} if self.image_size is None else {"image_size": self.image_size}

    def chosen_by(self, epoch: Mapping[str, float]) -> float:
        """Return the accuracy of an epoch that chooses the best epoch and setting, percent.

        Args:
            epoch: Entry of a trial's history.
        """
        return epoch["accuracy" if self.select == "test" else "validation_accuracy"]

    @property
    def note(self) -> str:
        """Note that stands beside every accuracy of this protocol."""
        if self.templates is not None:
            return UNTUNED
        return OPTIMISTIC if self.select == "test" else VALIDATED

    @property
    def label(self) -> str:
        """The name, or the settings that differ most from run to run: ``"100ep-64px-1000train"``."""
        sizes = ((self.image_size, "px"), (self.limit, "train"), (self.test_limit, "test"))
        first = f"{self.epochs}ep" if self.templates is None else "zero-shot"
        words = (first, *(f"{size}{unit}" for size, unit in sizes if size is not None))
        return self.name or "-".join(words)
