"""Zero-shot accuracy: prompts of class names, a trial without training, and its records."""

import numpy as np
import pytest
import torch
from PIL import Image
from test_vlm import folder  # noqa: F401 (a fixture)

import itm
from itm.core.errors import SettingError
from itm.groundtruth.grid import Grid
from itm.groundtruth.images import ImageSplits
from itm.groundtruth.protocol import UNTUNED, Protocol
from itm.groundtruth.summary import best_accuracies, selection, to_frame
from itm.groundtruth.trials import TrialStore
from itm.groundtruth.worker import Worker
from itm.models.backbone import load_backbone
from itm.models.prompts import check_templates, class_embeddings, class_words

pytestmark = [pytest.mark.vlm, pytest.mark.filterwarnings("ignore")]


def run_settings(**changed):
    settings = {
        "data": {"name": "mine", "limit": None, "test_limit": None},
        "grid": {"lr": [1e-3, 1e-4], "weight_decay": [0.0], "seeds": [0, 1], "best_seeds": []},
        "protocol": {"templates": None, "epochs": 3, "warmup_epochs": 0.5, "select": None},
        "image_size": None,
        "adaptation": "zero_shot",
        "trainer": {"precision": "32"},
    }
    return {**settings, **changed}


def splits(tmp_path, classes=("red cup", "green_tree", "sky")):
    rng = np.random.default_rng(0)
    for part, count in (("train", 2), ("test", 5)):
        for name in classes:
            (tmp_path / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / part / name / f"{number}.png")
    return ImageSplits(itm.load_images(tmp_path, "train"), itm.load_images(tmp_path, "test"))


def test_accuracy_is_that_of_open_clip_s_own_encoders(folder, tmp_path):  # noqa: F811
    import open_clip

    images = splits(tmp_path / "images")
    zoo = {"clip": {"library": "open_clip", "model": f"local-dir:{folder}", "pretrained": True}}
    grid = Grid.from_settings(run_settings(protocol={"templates": ["a {}", "one {}."]}))
    store = TrialStore(tmp_path / "records")
    records, failed = Worker(zoo, images, store).run(grid)
    assert not failed
    assert len(records) == 1  # learning rates, seeds and epochs play no part

    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokenizer = open_clip.get_tokenizer("ViT-B-32", context_length=8)
    unit = torch.nn.functional.normalize
    with torch.inference_mode():
        model.eval()
        embedded = [
            unit(model.encode_text(tokenizer([f"a {name}", f"one {name}."]))).mean(0)
            for name in ("green tree", "red cup", "sky")  # folders in the order of the alphabet
        ]
        pixels = torch.stack([transform(images.test.image(index)) for index in range(len(images.test))])
        predicted = (unit(model.encode_image(pixels)) @ unit(torch.stack(embedded)).T).argmax(1)
    expected = 100 * float((predicted == images.test.labels).float().mean())
    assert records[0].best["accuracy"] == pytest.approx(expected)
    frame = to_frame(records)
    assert best_accuracies(frame).loc["clip"].item() == pytest.approx(expected)
    assert selection(frame) == UNTUNED
    assert store.read_all() == records
    again, _ = Worker(zoo, images, store).run(grid)
    assert again == records


def test_records_from_before_the_prompts_keep_their_identity():
    assert "templates" not in Protocol().identity()
    shared = {"templates": ["{}"]}
    trained = Grid.from_settings(run_settings(adaptation="full", protocol={"epochs": 6, **shared}))
    assert trained.protocol.templates is None
    other = Protocol.zero_shot(("{}",))
    assert other.identity()["templates"] != Protocol.zero_shot(("a {}",)).identity()["templates"]


def test_the_setting_of_the_training_does_not_change_a_zero_shot_trial():
    one = Grid.from_settings(run_settings())
    two = Grid.from_settings(run_settings(protocol={"templates": None, "epochs": 9}, grid={"lr": [5.0]}))
    assert one == two
    assert one.protocol.templates == ("a photo of a {}.",)


def test_a_model_without_text_encoder_and_classes_without_names_are_one_line(folder, tmp_path):  # noqa: F811
    images = splits(tmp_path / "images")
    grid = Grid.from_settings(run_settings())
    zoo = {"plain": {"model": "resnet10t", "image_size": 32}}
    _, failed = Worker(zoo, images, TrialStore(tmp_path / "records")).run(grid)
    assert failed[0].startswith("plain: zoo.plain: resnet10t has no text encoder, which zero-shot accuracy needs")
    assert "\n" not in failed[0]
    numbered = splits(tmp_path / "numbers", classes=("10", "11", "12"))
    zoo = {"clip": {"model": f"open_clip:local-dir:{folder}", "pretrained": True}}
    _, failed = Worker(zoo, numbered, TrialStore(tmp_path / "records")).run(grid)
    assert failed == [
        "clip: class names are missing (found '10', '11', '12'): prompts need words; name the folders or labels of the "
        "classes by what they show."
    ]


@pytest.mark.parametrize("templates", ["a {}", [], ["a photo"], ["{} and {}"], [3], ["{}", "none"]])
def test_prompts_without_one_place_for_the_name_are_one_line(templates):
    with pytest.raises(SettingError, match=r"protocol\.templates") as raised:
        check_templates(templates, "protocol.templates")
    assert "\n" not in str(raised.value)
    with pytest.raises(SettingError, match=r"protocol\.templates"):
        Grid.from_settings(run_settings(protocol={"templates": templates}))


def test_characters_go_by_their_unicode_names():
    assert class_words(["๑", "A", "t-shirt_top", "sea  lion"]) == [
        "thai digit one",
        "latin capital letter a",
        "t-shirt top",
        "sea lion",
    ]
    assert class_words(["0", "1"]) == ["digit zero", "digit one"]
    for names in ([], ["a", " "], ["1", "22"]):
        with pytest.raises(SettingError, match="class names are missing"):
            class_words(names)


def test_class_embeddings_have_unit_length_and_use_the_model_s_own_prompts(folder):  # noqa: F811
    backbone = load_backbone("clip", model=f"open_clip:local-dir:{folder}", pretrained=True)
    default = class_embeddings(backbone, ["cat", "dog"])
    torch.testing.assert_close(default.norm(dim=1), torch.ones(2))
    torch.testing.assert_close(default, class_embeddings(backbone, ["cat", "dog"], ["a photo of a {}."]))
    backbone.net.text.prompts = ("{}",)
    torch.testing.assert_close(class_embeddings(backbone, ["cat", "dog"]), backbone.net.text(["cat", "dog"]))
