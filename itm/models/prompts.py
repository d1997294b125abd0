"""Prompts of class names for models with a text encoder (Radford et al., ICML 2021)."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from itm.core.errors import SettingError
from itm.models.backbone import Backbone
from itm.models.vlm import ImageEncoder

TEMPLATES = ("a photo of a {}.",)
"""Default prompts; ``{}`` stands for the name of the class."""
_PLACE = "{}"


def check_templates(templates: object, setting: str = "templates") -> tuple[str, ...]:
    """Return the prompts as a tuple.

    Args:
        templates: Texts with one ``{}`` each.
        setting: Name of the setting in errors.

    Raises:
        SettingError: If there is none, or one is not a text with one ``{}``.
    """
    if not isinstance(templates, Sequence) or isinstance(templates, str) or not templates:
        raise SettingError(
            f"{setting}={templates}: expected a list of prompts, as in {setting}=['a photo of a {{}}.']."
        )
    for prompt in templates:
        if not isinstance(prompt, str) or prompt.count(_PLACE) != 1:
            raise SettingError(
                f"{setting}: the prompt {prompt!r} needs one {{}}, where the name of the class goes, as in "
                "'a photo of a {}.'."
            )
    return tuple(templates)


def class_words(classes: Sequence[str]) -> list[str]:
    """Return the names of classes as words for prompts.

    A name of one character becomes the character's Unicode name in lower case, such as "thai digit one";
    underscores become spaces.

    Args:
        classes: Names of the classes.

    Raises:
        SettingError: If a name is blank, or all are numbers, which do not name anything.
    """
    names = [str(name).strip() for name in classes]
    numbers = all(name.isdecimal() for name in names) and any(len(name) > 1 for name in names)
    if numbers or not all(names) or not names:
        shown = ", ".join(repr(name) for name in names[:3])
        raise SettingError(
            f"class names are missing (found {shown}): prompts need words; name the folders or labels of the classes "
            "by what they show."
        )
    return [_word(name) for name in names]


def _word(name: str) -> str:
    if len(name) == 1:
        return unicodedata.name(name, name).lower()
    return " ".join(name.replace("_", " ").split())


def has_text(backbone: Backbone) -> bool:
    """Return whether a backbone has a text encoder."""
    return isinstance(backbone.net, ImageEncoder)


def check_text(backbone: Backbone) -> None:
    """Refuse a model without a text encoder.

    Raises:
        SettingError: Naming the model.
    """
    if not has_text(backbone):
        raise SettingError(
            f"zoo.{backbone.name}: {backbone.model} has no text encoder, which zero-shot accuracy needs; take a model "
            "of open_clip, as in {library: open_clip, model: ViT-B-32/laion2b_s34b_b79k, pretrained: true}."
        )


def text_digest(backbone: Backbone) -> str:
    """Return the sha256 over the weights of both encoders, in hexadecimal."""
    check_text(backbone)
    return str(cast(Any, backbone.net).text.digest)


def class_embeddings(backbone: Backbone, classes: Sequence[str], templates: Sequence[str] | None = None) -> Tensor:
    """Compute the text embedding of each class: the mean of its prompts' embeddings, at unit length.

    Args:
        backbone: A model with a text encoder.
        classes: Names of the classes.
        templates: Prompts with ``{}``; None: those in the configuration of the model's folder, or :data:`TEMPLATES`.

    Returns:
        Float32, ``[C, D]``, on the CPU.

    Raises:
        SettingError: If the model has no text encoder, a class has no name, or a prompt lacks ``{}``.
        CheckpointError: If the tokenizer cannot be fetched.
    """
    check_text(backbone)
    text = cast(Any, backbone.net).text
    prompts = check_templates(text.prompts or TEMPLATES if templates is None else templates)
    rows = [text([prompt.replace(_PLACE, word) for prompt in prompts]).mean(0) for word in class_words(classes)]
    return F.normalize(torch.stack(rows))
