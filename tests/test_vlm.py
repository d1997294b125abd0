"""Vision-language models of open_clip as backbones, against open_clip itself."""

import json

import pytest
import torch
from PIL import Image

from itm.core.errors import SettingError
from itm.models.backbone import load_backbone

pytestmark = [pytest.mark.vlm, pytest.mark.filterwarnings("ignore")]

VISION = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8}
TEXT = {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
CONFIG = {
    "model_cfg": {"embed_dim": 24, "vision_cfg": VISION, "text_cfg": TEXT},
    "preprocess_cfg": {"size": 32, "mean": [0.5] * 3, "std": [0.25] * 3, "resize_mode": "squash"},
}


@pytest.fixture
def folder(tmp_path):
    """A folder of a tiny model that open_clip reads as `local-dir:`."""
    import open_clip
    from safetensors.torch import save_file

    torch.manual_seed(7)
    model = open_clip.CLIP(**CONFIG["model_cfg"])
    (tmp_path / "open_clip_config.json").write_text(json.dumps(CONFIG))
    save_file(model.state_dict(), tmp_path / "open_clip_model.safetensors")
    return tmp_path


def test_features_and_prompts_are_open_clip_s_embeddings(folder):
    import open_clip

    backbone = load_backbone("clip", model=f"open_clip:local-dir:{folder}", pretrained=True)
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    model.eval()
    image = Image.effect_mandelbrot((45, 60), (-2, -1, 1, 1), 50).convert("RGB")
    with torch.inference_mode():
        expected = model.encode_image(transform(image)[None])
        found, logits = backbone(backbone.transform(image)[None])
        text = torch.nn.functional.normalize(
            model.encode_text(open_clip.get_tokenizer("ViT-B-32", context_length=8)(["a cat", "a dog"]))
        )
    assert logits is None
    assert backbone.dim == 24
    torch.testing.assert_close(found, expected, atol=0.02, rtol=0.02)  # the resized image is rounded to 8 bits
    torch.testing.assert_close(backbone.net.text(["a cat", "a dog"]), text)


def test_a_local_checkpoint_loads_into_an_architecture_and_the_text_encoder_is_not_counted(folder):
    named = load_backbone("clip", model=f"open_clip:local-dir:{folder}", pretrained=True)
    file = folder / "open_clip_model.safetensors"
    read = load_backbone("clip", model=f"open_clip:local-dir:{folder}", checkpoint=str(file))
    random = load_backbone("clip", model=f"open_clip:local-dir:{folder}")
    assert named.weights_digest == read.weights_digest != random.weights_digest
    visual = sum(weight.numel() for weight in named.net.visual.parameters())
    assert named.num_parameters == visual


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("open_clip:ViT-B-33", "no such architecture. Closest: open_clip:ViT-B-32"),
        ("open_clip:ViT-B-32/nope", "weights 'nope' not known. Allowed: openai"),
        ("open_clip:local-dir:/nowhere", "could not be read as open_clip's"),
    ],
)
def test_a_name_that_open_clip_does_not_know_is_one_line(model, message):
    with pytest.raises(SettingError, match=message) as error:
        load_backbone("x", model=model)
    assert str(error.value).startswith("zoo.x.model=open_clip:")
    assert "\n" not in str(error.value)
