"""Vision-language models of open_clip: the image encoder behind timm's interface, the text encoder for prompts."""

from __future__ import annotations

import difflib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from itm.core.errors import CheckpointError, SettingError
from itm.models.checkpoints import REPOSITORY, digest

PREFIX = "open_clip:"
_FOLDERS = ("local-dir:", "repository:")
_CONFIG = "open_clip_config.json"
_RESIZE = {"shortest": "center", "squash": "squash", "longest": "border"}  # open_clip's word: timm's
_MISSING = "open_clip is not installed; install it with `uv sync --extra vlm` or `pip install 'itm[vlm]'`."


class OpenClipModel:
    """One ``open_clip:<architecture>/<tag>``, for example ``open_clip:ViT-B-32/laion2b_s34b_b79k``.

    Without a tag the architecture has no published weights. ``open_clip:hf-hub:<owner>/<name>`` is a model of the hub,
    ``open_clip:local-dir:<folder>`` one on disk with ``open_clip_config.json`` and its weights, and
    ``open_clip:repository:<folder>`` such a folder of this project's repository.

    Args:
        model: As above.
        setting: The setting as the user typed it, for messages.

    Raises:
        SettingError: If open_clip is not installed, or has no such architecture, tag or folder.
    """

    resizable = False
    size_argument = "img_size"
    classifiers: tuple[str, ...] = ()
    pooling: str | None = None
    license = "unknown"  # open_clip does not list licences

    def __init__(self, model: str, setting: str) -> None:
        try:
            import open_clip
        except ImportError as error:
            raise SettingError(f"{setting}={model}: {_MISSING}") from error
        self.name, typed = model, f"{setting}={model}"
        place = model.removeprefix(PREFIX)
        self.tag: str | None = None
        self.folder = _folder(place, typed)
        if self.folder is not None:
            place = f"local-dir:{self.folder}"
        elif not place.startswith("hf-hub:"):
            place, _, tag = place.partition("/")
            self.tag = tag or None
            _check_known(place, self.tag, typed)
        self.architecture = place
        self.preprocessing = _preprocessing(_preprocess_cfg(place, self.tag, self.folder))
        self.hub = f"the weights of {place} {self.tag or ''}".strip()
        self.pretraining = f"open_clip {self.tag or place}"
        self._open_clip = open_clip

    def pretrained(self) -> dict[str, Tensor]:
        """Fetch the weights of both encoders, or take them from the cache or the folder.

        Raises:
            SettingError: If the model was named without a tag.
        """
        if self.tag is None and ":" not in self.architecture:
            known = ", ".join(self._open_clip.list_pretrained_tags_by_model(self.architecture)) or "none"
            raise SettingError(f"{self.name} names no weights; append one of its tags: /<tag>. Known: {known}.")
        with _quiet():
            model = self._open_clip.create_model(self.architecture, pretrained=self.tag, require_pretrained=True)
        return dict(model.state_dict())

    def build(self, num_classes: int, **arguments: Any) -> nn.Module:
        """Build both encoders under open_clip's names, initialised by the global random state."""
        device = torch.get_default_device()  # the meta device where only names and shapes are wanted
        with _quiet(logging.WARNING):  # of a random initialisation: weights come later, or the network is a control
            net = self._open_clip.create_model(
                self.architecture, load_weights=False, pretrained_text=False, device=device, **arguments
            )
        net.global_pool = "embedding"
        return cast(nn.Module, net)

    def finish(self, net: nn.Module, has_head: bool) -> nn.Module:
        """Return the image encoder, which remembers the text encoder."""
        content = {} if self.folder is None else _read_config(self.folder, self.name)
        prompts = tuple(str(prompt) for prompt in content.get("prompts", ()))
        return ImageEncoder(net, TextEncoder(net, self._tokenizer, self.name, prompts))

    def _tokenizer(self) -> Any:
        """Return open_clip's tokenizer of the model; a vocabulary in the model's folder is found from there."""
        if self.folder is None:
            return self._open_clip.get_tokenizer(self.architecture)
        config = _read_config(self.folder, self.name)["model_cfg"]
        vocabulary = config.get("text_cfg", {}).get("tokenizer_kwargs", {}).get("bpe_path")
        paths = {} if vocabulary is None else {"bpe_path": str(self.folder / vocabulary)}
        return self._open_clip.get_tokenizer(self.architecture, **paths)


class ImageEncoder(nn.Module):
    """The image encoder of a vision-language model, with timm's interface; features are the image's embedding.

    The text encoder is not part of the module: a network that is fine-tuned or counted has the image encoder alone.

    Args:
        model: open_clip's model of both encoders.
        text: Its text encoder.
    """

    def __init__(self, model: nn.Module, text: TextEncoder) -> None:
        super().__init__()
        self.visual = cast(nn.Module, model.visual)
        self.text = text
        with torch.inference_mode():
            size = cast(Any, self.visual).image_size
            side = size[0] if isinstance(size, tuple | list) else size
            self.num_features = int(self.visual.eval()(torch.zeros(1, 3, side, side)).shape[1])

    def forward_features(self, images: Tensor) -> Tensor:
        """Compute embeddings ``[B, D]``, before they are normalised to unit length."""
        return cast(Tensor, self.visual(images))

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Return the embeddings; the encoder has no source head."""
        return features

    def forward(self, images: Tensor) -> Tensor:
        """Compute embeddings ``[B, D]``."""
        return self.forward_features(images)

    def get_classifier(self) -> nn.Module:
        """Return a layer without weights."""
        return nn.Identity()


class TextEncoder:
    """The text encoder of a vision-language model.

    Args:
        model: open_clip's model of both encoders.
        tokenizer: Builds its tokenizer, on first use: some are fetched from a hub.
        name: The model's name in errors.
        prompts: Prompts that the model was trained with, where its folder's configuration lists ``prompts``.
    """

    def __init__(
        self, model: nn.Module, tokenizer: Callable[[], Any], name: str, prompts: tuple[str, ...] = ()
    ) -> None:
        self.prompts = prompts
        self._model, self._tokenizer, self._name = model.eval(), tokenizer, name

    @cached_property
    def digest(self) -> str:
        """The sha256 over the weights of both encoders, in hexadecimal."""
        return digest(self._model.state_dict())

    @torch.inference_mode()
    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Return embeddings of unit length, float32, ``[len(texts), D]``, on the CPU.

        Raises:
            CheckpointError: If the tokenizer cannot be fetched.
        """
        try:
            with _quiet():
                tokenizer = self._tokenizer()
        except Exception as error:  # each hub client fails with classes of its own
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise CheckpointError(f"{self._name}: its tokenizer could not be had ({reason}).") from error
        model = cast(Any, self._model).cpu()
        return F.normalize(model.encode_text(tokenizer(list(texts))).float())


@contextmanager
def _quiet(level: int = logging.INFO) -> Iterator[None]:
    """Hold back open_clip's messages up to a level, which it writes to the root logger."""
    before = logging.root.manager.disable
    logging.disable(level)
    try:
        yield
    finally:
        logging.disable(before)


def _folder(place: str, typed: str) -> Path | None:
    """Return the folder that a name points to, or None."""
    if not place.startswith(_FOLDERS):
        return None
    kind, _, path = place.partition(":")
    folder = REPOSITORY / path if kind == "repository" else Path(path).expanduser()
    _read_config(folder, typed)
    return folder


def _read_config(folder: Path, typed: str) -> dict[str, Any]:
    try:
        content = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
        if not isinstance(content["model_cfg"], dict):
            raise TypeError("model_cfg is not a mapping")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SettingError(
            f"{typed}: {folder / _CONFIG} could not be read as open_clip's ({type(error).__name__}: {error})."
        ) from error
    return cast(dict[str, Any], content)


def _check_known(architecture: str, tag: str | None, typed: str) -> None:
    import open_clip

    known = open_clip.list_models()
    if architecture not in known:
        closest = [PREFIX + name for name in difflib.get_close_matches(architecture, known, n=3)]
        hint = f" Closest: {', '.join(closest)}." if closest else ""
        raise SettingError(f"{typed}: open_clip has no such architecture.{hint}")
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if tag is not None and tag not in tags:
        raise SettingError(f"{typed}: weights {tag!r} not known. Allowed: {', '.join(tags) or 'none'}.")


def _preprocess_cfg(architecture: str, tag: str | None, folder: Path | None) -> dict[str, Any]:
    import open_clip
    from open_clip.transform import PreprocessCfg

    found: dict[str, Any] = asdict(PreprocessCfg())
    if folder is not None:
        return found | dict(_read_config(folder, str(folder)).get("preprocess_cfg", {}))
    if architecture.startswith("hf-hub:"):
        config = open_clip.factory._get_hf_config(architecture.removeprefix("hf-hub:"))
        return found | dict(config.get("preprocess_cfg", {}))
    size = open_clip.get_model_config(architecture)["vision_cfg"].get("image_size", found["size"])
    published = open_clip.get_pretrained_cfg(architecture, tag) if tag else {}
    return found | {key: value for key, value in published.items() if key in found} | {"size": size}


def _preprocessing(cfg: dict[str, Any]) -> dict[str, Any]:
    """Return open_clip's evaluation transform as arguments of timm's ``create_transform``."""
    size = cfg["size"]
    height, width = size if isinstance(size, tuple | list) else (size, size)
    return {
        "input_size": (3, height, width),
        "crop_pct": 1.0,
        "crop_mode": _RESIZE[cfg["resize_mode"]],
        "interpolation": cfg["interpolation"],
        "mean": tuple(cfg["mean"]),
        "std": tuple(cfg["std"]),
    }
