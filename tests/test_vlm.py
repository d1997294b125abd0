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


def test_the_library_of_an_entry_is_the_prefix_of_its_model(folder):
    prefixed = load_backbone("clip", model=f"open_clip:local-dir:{folder}", pretrained=True)
    named = load_backbone("clip", library="open_clip", model=f"local-dir:{folder}", pretrained=True)
    assert (named.model, named.weights_digest) == (prefixed.model, prefixed.weights_digest)
    with pytest.raises(SettingError, match=r"zoo.x.library=openclip: not known. Did you mean 'open_clip'"):
        load_backbone("x", library="openclip", model="ViT-B-32")


def test_an_architecture_of_open_clip_is_built_without_weights():
    backbone = load_backbone("small", library="open_clip", model="ViT-S-32-alt")
    assert (backbone.dim, backbone.input_size) == (256, 224)
    assert "control" in backbone.pretraining


def test_the_ten_real_models_are_known_to_open_clip_without_their_weights():
    from itm.cli.models import named_zoo
    from itm.models.budget import entry_facts
    from itm.models.entry import ZooEntry, check_zoo

    zoo = named_zoo("open_clip10")
    check_zoo(zoo)
    models = [ZooEntry.read(name, entry).find_model() for name, entry in zoo.items()]
    assert len({model.name for model in models}) == 10
    assert all(model.tag for model in models)
    facts = {name: entry_facts(ZooEntry.read(name, zoo[name])) for name in ("rn50_openai", "vit_b16_siglip")}
    assert {name: found.paradigm for name, found in facts.items()} == {
        "rn50_openai": "clip",
        "vit_b16_siglip": "siglip",
    }


def test_the_miniature_s_models_are_in_the_repository():
    import torch.nn.functional as F

    from itm.cli.models import named_zoo

    zoo = named_zoo("vlm_miniature")
    assert len(zoo) == 12
    backbone = load_backbone("resnet_both", **zoo["resnet_both"])
    text = backbone.net.text(["folder", "thai digit one"])
    torch.testing.assert_close(text, F.normalize(text))
    assert backbone.dim == text.shape[1] == 96
    assert backbone.net.text.prompts == ("{}",)
