"""Pre-training of small models: losses, resumption, exported weights, and a ranking with them."""

from __future__ import annotations

import json
import math
import re
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from filelock import FileLock
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from small_networks import CNN, PIXELS, VIT

pytest.importorskip("lightly", reason="needs the extra `miniature`")
pytest.importorskip("kornia", reason="needs the extra `miniature`")

import itm
from experiments.miniature import pretrain as script
from experiments.miniature import pretraining
from experiments.miniature.contrastive import DINO, MoCoV3, SimCLR, info_nce
from experiments.miniature.masked import MAE, SimMIM
from experiments.miniature.module import Pretraining
from experiments.miniature.pictures import Corpus, Pictures, RoundSampler
from experiments.miniature.pretraining import (
    Job,
    PretrainingError,
    PretrainingSettings,
    PretrainingWorker,
    export,
    read_metadata,
    train,
)
from experiments.miniature.supervised import Supervised
from experiments.miniature.views import RandomViews
from itm.cli import command
from itm.core.errors import SettingError
from itm.extraction.pool import ExtractionSettings, extract_pool
from itm.models.backbone import load_backbone

pytestmark = pytest.mark.miniature
ROOT = Path(__file__).parents[1]
FAMILIES = {
    "supervised": partial(Supervised, **CNN),
    "simclr": partial(SimCLR, **VIT, hidden_dim=32, output_dim=16),
    "mocov3": partial(MoCoV3, **VIT, hidden_dim=32, output_dim=16),
    "dino": partial(DINO, **VIT, hidden_dim=32, bottleneck_dim=16, output_dim=64),
    "mae": partial(MAE, **VIT, decoder_dim=16, decoder_depth=1, mask_ratio=0.5),
    "simmim": partial(SimMIM, **VIT),
}
TINY = {"num_classes": 3, "images": 96, "batch_size": 16}


@pytest.fixture(autouse=True)
def _quick(one_thread, monkeypatch):
    monkeypatch.setattr("experiments.miniature.module._ROUND", 2)


@pytest.fixture(scope="module")
def pictures() -> Pictures:
    """Three kinds of image, stripes of three directions, in colours of their own."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[:32, :32]
    labels = np.arange(120) % 3
    waves = np.stack([x, y, x + y])[labels] / 3 + random.uniform(0, 6, (120, 1, 1))
    colours = random.uniform(40, 120, (120, 1, 1, 3))
    images = 128 + np.sin(waves)[..., None] * colours + random.normal(0, 5, (120, 32, 32, 3))
    return Pictures(images.clip(0, 255).astype(np.uint8), labels)


def build(family: str, **settings) -> Pretraining:
    return FAMILIES[family](**{**TINY, **settings})


def images_of(pictures: Pictures, count: int = 16) -> torch.Tensor:
    return pictures.images[:count]


# views


def test_each_image_draws_its_own_view(pictures):
    torch.manual_seed(0)
    views = RandomViews(saturation=0.2, hue=0.1, grayscale=0.2, blur=0.2)(images_of(pictures, 1).expand(8, -1, -1, -1))
    assert views.shape == (8, 3, 32, 32)
    assert views.dtype == torch.float32
    assert views.min() >= -1
    assert views.max() <= 1
    assert len(torch.unique(views.flatten(1), dim=0)) == 8


def test_views_are_never_mirrored():
    half = torch.zeros(64, 3, 32, 32, dtype=torch.uint8)
    half[..., 16:] = 255
    views = RandomViews(scale=(0.7, 1.0), brightness=0, contrast=0, invert=0)(half)
    assert (views[..., -1].mean((1, 2)) > views[..., 0].mean((1, 2))).all()


def test_an_inverted_view_is_the_negative():
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    plain = {"scale": (1.0, 1.0), "brightness": 0, "contrast": 0}
    torch.manual_seed(0)
    views = RandomViews(**plain, invert=0)(images)
    torch.manual_seed(0)
    torch.testing.assert_close(RandomViews(**plain, invert=1.0)(images), -views)


# order


def test_rounds_show_every_row_once_before_any_twice():
    rounds = RoundSampler(10, 4, seed=3)
    seen = []
    for number in range(5):
        rounds.set_epoch(number)
        part = list(rounds)
        assert part == list(rounds), "a round is a function of its number"
        seen += part
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert seen[:10] != seen[10:]


def test_held_out_images_are_not_training_images(pictures):
    numbered = Pictures(np.arange(120, dtype=np.uint8)[:, None, None, None].repeat(3, 3), np.arange(120))
    known, new = numbered.split()
    assert len(new) == 12
    assert sorted(known.labels.tolist() + new.labels.tolist()) == list(range(120))
    assert (known.images[:, 0, 0, 0] == known.labels).all()


# losses


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_falls(family, pictures, tmp_path):
    # a moving teacher makes DINO's loss no measure of progress; one that stays can be learned
    still = {"momentum": 1.0, "center_momentum": 1.0} if family == "dino" else {}
    module = build(family, images=480, lr=3e-3, **still)
    train(family, module, pictures, tmp_path, PretrainingSettings())
    losses = [part["loss"] for part in module.history]
    assert len(losses) == 15
    assert np.mean(losses[-4:]) < np.mean(losses[:4])
    assert module.global_step == 30


@pytest.mark.parametrize("family", FAMILIES)
def test_only_supervised_training_uses_the_labels(family, pictures):
    module = build(family).train()
    images, labels = images_of(pictures), pictures.labels[:16]

    def loss(labels: torch.Tensor) -> float:
        return module.training_step((images, labels), 0).item()  # random numbers of step 0 each time

    module.eval()  # batch statistics aside
    if family == "dino":
        module.criterion.center_momentum = 1.0
    assert loss(labels) == loss(labels)
    assert (loss(labels) == loss((labels + 1) % 3)) == (family != "supervised")


def test_a_step_leaves_the_callers_random_numbers_alone(pictures):
    module = build("mae")
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    module.training_step((images_of(pictures), pictures.labels[:16]), 0)
    assert torch.equal(torch.rand(3), expected)


def test_info_nce_is_the_mean_log_probability_of_the_own_key():
    q, k = torch.randn(2, 5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    total = 0.0
    for i in range(5):
        similar = [math.exp(float(F.cosine_similarity(q[i], k[j], dim=0)) / 0.2) for j in range(5)]
        total -= math.log(similar[i] / sum(similar))
    assert float(info_nce(q, k, 0.2)) == pytest.approx(2 * 0.2 * total / 5)


@pytest.mark.parametrize("family", ["mocov3", "dino"])
def test_the_average_moves_towards_the_network(family, pictures):
    module = build(family, momentum=0.9)
    before = {name: value.clone() for name, value in module.momentum_net.named_parameters()}
    assert all(torch.equal(before[name], value) for name, value in module.net.named_parameters())
    with torch.no_grad():
        for value in [*module.net.parameters(), *module.projector.parameters()]:
            value.add_(1.0)
    module.on_train_batch_end(None, None, 0)
    for name, value in module.momentum_net.named_parameters():
        torch.testing.assert_close(value, before[name] + 0.1)
        assert not value.requires_grad


def test_the_momentum_rises_along_a_cosine(pictures, tmp_path, monkeypatch):
    used = []
    monkeypatch.setattr("experiments.miniature.contrastive.update_momentum", lambda own, other, m: used.append(m))
    train("m", build("mocov3", momentum=0.9, images=96), pictures, tmp_path, PretrainingSettings())
    expected = [1 - 0.1 * (math.cos(math.pi * step / 5) + 1) / 2 for step in range(1, 6)]
    assert used[::2] == pytest.approx([*expected, 1.0])


def test_the_teachers_centre_follows_its_outputs(pictures):
    module = build("dino").eval()
    views = module.views(images_of(pictures))
    scores = torch.cat([module.momentum_projector(module.momentum_net(views)) for _ in range(2)])
    module.loss_of_views(views, views)
    torch.testing.assert_close(module.criterion.center.flatten(), 0.1 * scores.mean(0))


def test_the_prototypes_are_frozen_during_the_warm_up(pictures, tmp_path):
    module = build("dino", warmup=0.5)
    before = module.projector.last_layer.weight_v.clone()
    seen = []
    step = module.on_train_batch_end
    module.on_train_batch_end = lambda *args: (seen.append(module.projector.last_layer.weight_v.clone()), step(*args))
    train("dino", module, pictures, tmp_path, PretrainingSettings())
    assert [torch.equal(value, before) for value in seen] == [True] * 3 + [False] * 3


def patch(views: torch.Tensor, token: int) -> torch.Tensor:
    """Pixels of a token's patch; token 0 is the class token."""
    row, column = divmod(token - 1, 4)
    return views[:, row * 8 : row * 8 + 8, column * 8 : column * 8 + 8]


@pytest.mark.parametrize(("family", "share"), [("mae", 0.5), ("simmim", 0.6)])
def test_masked_patches_do_not_reach_the_encoder(family, share, pictures, monkeypatch):
    module = build(family)
    views = module.views(images_of(pictures, 4)).requires_grad_()
    masks = []
    monkeypatch.setattr(module, "loss_of_masks", lambda _, *tokens: masks.append(tokens))
    module.loss_of_views(views)
    monkeypatch.undo()
    seen, hidden = masks[0]
    assert hidden.shape == (4, 16 - int(16 * (1 - share)))
    monkeypatch.setattr(module, "target", lambda views, hidden: torch.ones(*hidden.shape, 192))
    module.loss_of_masks(views, seen, hidden).backward()
    for image in range(4):
        assert {0, *range(1, 17)} == {*seen[image].tolist(), *hidden[image].tolist()}
        assert all(patch(views.grad[image], int(token)).abs().max() == 0 for token in hidden[image])
        assert all(patch(views.grad[image], int(token)).abs().max() > 0 for token in seen[image] if token)


@pytest.mark.parametrize("family", ["mae", "simmim"])
def test_a_prediction_of_zero_costs_the_size_of_the_masked_pixels(family, pictures):
    module = build(family)
    torch.nn.init.zeros_(module.predict.weight)
    torch.nn.init.zeros_(module.predict.bias)
    views = module.views(images_of(pictures, 4))
    hidden = torch.tensor([[1, 6, 16]] * 4)
    seen = torch.tensor([[token for token in range(17) if token not in (1, 6, 16)]] * 4)
    hidden_pixels = torch.stack([patch(view, token).flatten() for view in views for token in (1, 6, 16)])
    # a normalised patch has the (unbiased) variance 1
    expected = 191 / 192 if family == "mae" else float(hidden_pixels.abs().mean())
    assert float(module.loss_of_masks(views, seen, hidden)) == pytest.approx(expected, rel=1e-3)


def test_biases_and_norms_do_not_decay():
    optimizer = build("mae").configure_optimizers()["optimizer"]
    decays = {group["weight_decay"]: {value.ndim for value in group["params"]} for group in optimizer.param_groups}
    assert decays[0.0] == {1}
    assert 1 not in decays[0.05]


# resumption


@pytest.mark.parametrize("family", ["supervised", "dino", "mae"])
def test_a_resumed_training_ends_with_the_same_weights(family, pictures, tmp_path, monkeypatch):
    whole = build(family)
    train(family, whole, pictures, tmp_path / "whole", PretrainingSettings(minutes=0))
    cut = build(family)
    begin = cut.on_train_epoch_start

    def stop() -> None:
        if cut.current_epoch == 2:
            raise KeyboardInterrupt
        begin()

    monkeypatch.setattr(cut, "on_train_epoch_start", stop)
    (tmp_path / "cut").mkdir()
    with pytest.raises(KeyboardInterrupt):
        train(family, cut, pictures, tmp_path / "cut", PretrainingSettings(minutes=0))
    assert (tmp_path / "cut" / "last.ckpt").exists()
    torch.manual_seed(99)
    resumed = build(family)
    train(family, resumed, pictures, tmp_path / "cut", PretrainingSettings(minutes=0))
    assert [part["loss"] for part in resumed.history] == [part["loss"] for part in whole.history]
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


# weights


def walk(pictures: Pictures, folder: Path) -> PretrainingWorker:
    return PretrainingWorker(pictures, "corpus", folder / "weights", folder / "state", patience=0.01)


def job(family: str, name: str | None = None, **settings) -> Job:
    return Job(name or family, {"family": family, **settings}, partial(build, family, **settings))


@pytest.mark.parametrize("family", FAMILIES)
def test_written_weights_give_the_trained_features(family, pictures, tmp_path):
    made = build(family)
    assert not walk(pictures, tmp_path).run([Job(family, {}, lambda: made)])
    spec = CNN | {"image_size": 32} if family == "supervised" else VIT
    pooling = {"supervised": "gap", "mae": "mean", "simmim": "mean"}.get(family, "cls")
    file = tmp_path / "weights" / f"{family}.safetensors"
    backbone = load_backbone(family, **spec, checkpoint=str(file), pooling=pooling, preprocessing=PIXELS)
    features, logits = backbone(images_of(pictures))
    assert {value.dtype for value in backbone.state_dict().values()} <= {torch.float32, torch.int64}
    with torch.inference_mode():
        expected = made.features(images_of(pictures))
    torch.testing.assert_close(features, expected, atol=5e-3, rtol=5e-3)
    assert (logits is not None) == (family == "supervised")
    facts = read_metadata(file)
    assert facts["images"] == 96
    assert facts["corpus"] == "corpus"
    assert set(facts["held_out"]) == ({"knn", "accuracy"} if family == "supervised" else {"knn"})
    assert facts["seconds"] >= 0  # rounded to a tenth, so a short training may show 0.0
    assert file.stat().st_size < 2.5 * sum(value.numel() for value in made.net.parameters()) + 20_000


def test_values_too_large_for_half_precision_are_refused(tmp_path):
    net = torch.nn.Linear(1, 1)
    torch.nn.init.constant_(net.weight, 1e5)
    with pytest.raises(PretrainingError, match="weight has values that are not finite in half precision"):
        export(net, tmp_path / "w.safetensors", {})
    assert not list(tmp_path.iterdir())


def test_features_recognise_the_classes(pictures, tmp_path):
    walk(pictures, tmp_path).run([job("supervised", images=960, lr=5e-3)])
    assert read_metadata(tmp_path / "weights" / "supervised.safetensors")["held_out"]["accuracy"] > 60


# many models


def test_a_finished_model_is_trained_again_only_after_a_change_of_settings(pictures, tmp_path):
    file = tmp_path / "weights" / "mae.safetensors"
    walk(pictures, tmp_path).run([job("mae")])
    first = file.stat().st_mtime_ns
    walk(pictures, tmp_path).run([job("mae")])
    assert file.stat().st_mtime_ns == first
    walk(pictures, tmp_path).run([job("mae", lr=2e-3)])
    assert file.stat().st_mtime_ns != first
    assert read_metadata(file)["recipe"] == {"family": "mae", "lr": 2e-3}


def test_a_model_that_another_process_has_locked_is_tried_again_later(pictures, tmp_path, monkeypatch):
    held, free = job("mae", "held"), job("mae", "free")
    folder = tmp_path / "state" / f"held-{held.digest('corpus')[:16]}"
    folder.mkdir(parents=True)
    lock = FileLock(folder / ".lock", is_singleton=False)
    lock.acquire()
    finished = []

    def let_go(seconds: float) -> None:
        finished.extend(path.stem for path in (tmp_path / "weights").glob("*.safetensors"))
        lock.release()

    monkeypatch.setattr(pretraining.time, "sleep", let_go)
    assert not walk(pictures, tmp_path).run([held, free])
    assert finished == ["free"]
    assert (tmp_path / "weights" / "held.safetensors").exists()


def test_a_model_that_fails_is_named_and_the_others_go_on(pictures, tmp_path):
    wrong = Job("wrong", {}, lambda: build("mae", model_args={"depth": "two"}))
    failed = walk(pictures, tmp_path).run([job("supervised", "wild", lr=1e30), wrong, job("mae")])
    assert set(failed) == {"wild", "wrong"}
    assert "the loss is nan" in failed["wild"]
    assert "model_args={'depth': 'two'}: vit_tiny_patch16_224 cannot be built so" in failed["wrong"]
    assert [path.stem for path in (tmp_path / "weights").glob("*.safetensors")] == ["mae"]


def test_the_fourteen_shipped_weights_count_as_finished(monkeypatch):
    monkeypatch.setattr(PretrainingWorker, "_train", lambda *_: pytest.fail("trained again"))
    with initialize_config_dir(str(script.CONFIGS), version_base="1.3"):
        cfg = OmegaConf.to_container(compose("pretrain"), resolve=True)
    jobs = [script.job(name, script.scaled(spec, cfg["recipe"]), ["a/b"] * 104) for name, spec in cfg["models"].items()]
    assert len(jobs) == 14
    corpus = {read_metadata(script.WEIGHTS / f"{job.name}.safetensors")["corpus"] for job in jobs}
    worker = PretrainingWorker(
        Pictures(np.zeros((10, 32, 32, 3), np.uint8), np.zeros(10, int)), *corpus, script.WEIGHTS, ROOT
    )
    assert all(worker.is_finished(job) for job in jobs)
    other = replace(jobs[0], settings={**jobs[0].settings, "lr": 1.0})
    assert not worker.is_finished(other)


def test_the_shipped_weights_are_those_of_the_fine_tuning_records():
    found = {}
    for file in (ROOT / "experiments" / "miniature" / "records").glob("clipart-*/record.json"):
        record = json.loads(file.read_text("utf-8"))["cell"]
        found[record["model"]] = record["weights"]
    with initialize_config_dir(str(script.CONFIGS), version_base="1.3"):
        zoo = OmegaConf.to_container(compose("estimate", ["zoo=miniature14"]).zoo, resolve=True)
    assert {name: load_backbone(name, **spec).weights_digest for name, spec in zoo.items()}.items() <= found.items()


# from the command line to a ranking


@pytest.fixture
def pretrain(tmp_path, monkeypatch):
    """Runs the command that pre-trains in this process on the pictures."""
    monkeypatch.setenv("ITM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")

    def go(*overrides: str) -> object:
        own = ["pretrain.py", f"hydra.run.dir={tmp_path / 'out'}", f"weights={tmp_path / 'weights'}", *overrides]
        monkeypatch.setattr(sys, "argv", own)
        try:
            command.run(script.main, "pretrain")
        except SystemExit as stop:
            return stop.code
        return 0

    return go


def write(pictures: Pictures, file: Path) -> None:
    images = np.ascontiguousarray(pictures.images.permute(0, 2, 3, 1).numpy())
    Corpus(images, pictures.labels.numpy(), ("a", "b", "c"), {}).save(file)


def test_from_a_corpus_to_a_ranking(pretrain, pictures, tmp_path):
    file = tmp_path / "corpus.safetensors"
    write(pictures, file)
    small = ("recipe=toy", f"corpus={file}", "only=[simclr,mobilenetv3_small]", "models.simclr.model_args.depth=2")
    assert pretrain(*small) == 0
    assert {path.stem for path in (tmp_path / "weights").iterdir()} == {"simclr", "mobilenetv3_small"}
    zoo = {
        "simclr": {
            **VIT,
            "model_args": {"img_size": 32, "patch_size": 8, "embed_dim": 128, "depth": 2, "num_heads": 4},
        },
        "mobilenetv3_small": {"model": "mobilenetv3_small_050", "image_size": 32},
    }
    for name, entry in zoo.items():
        entry["checkpoint"] = str(tmp_path / "weights" / f"{name}.safetensors")
    settings = {
        "data": {"name": "digits", "root": None, "limit": 60, "on_error": "stop"},
        "zoo": zoo,
        "trainer": {"accelerator": "cpu", "precision": "32", "batch_size": 32, "workers": 0},
        "store": str(tmp_path / "features"),
        "seed": 0,
    }
    pool = extract_pool(ExtractionSettings.from_run(settings))
    assert not pool.failed
    assert set(itm.rank(pool.features, "logme").order) == set(zoo)


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("+models.simclr.model_args.dept=3", "models.simclr: model_args="),
        ("+models.simclr.temprature=3", "models.simclr: .*unexpected keyword argument 'temprature'"),
    ],
)
def test_the_error_names_the_wrong_setting_of_a_model(typed, message, pretrain, pictures, tmp_path):
    file = tmp_path / "corpus.safetensors"
    write(pictures, file)
    said = str(pretrain("recipe=toy", f"corpus={file}", "only=[simclr]", typed))
    assert re.search(f"error: some models failed.*\n.*{message}", said), said


def test_a_misspelt_model_is_one_line(pretrain, capsys):
    assert pretrain("only=[simclear]") == 2
    assert "Did you mean 'simclr'?" in capsys.readouterr().err


def test_positions_are_resampled_from_the_size_that_was_trained(tmp_path, pictures):
    walk(pictures, tmp_path).run([job("simclr")])
    file = str(tmp_path / "weights" / "simclr.safetensors")
    small, large = (load_backbone("a", **VIT, checkpoint=file, image_size=size) for size in (None, 48))
    assert large.net.pos_embed.shape[1] == 37
    # the class token's place is the same, the corners' nearly
    torch.testing.assert_close(large.net.pos_embed[:, :1], small.net.pos_embed[:, :1])
    assert F.cosine_similarity(large.net.pos_embed[0, 1], small.net.pos_embed[0, 1], dim=0) > 0.9


# the second family


def second() -> dict:
    with initialize_config_dir(str(script.CONFIGS), version_base="1.3"):
        return OmegaConf.to_container(compose("pretrain", ["family=second"]), resolve=True)["models"]


def test_the_models_of_the_second_family_build_and_are_those_of_its_zoo():
    models = second()
    with initialize_config_dir(str(script.CONFIGS), version_base="1.3"):
        zoo = OmegaConf.to_container(compose("estimate", ["zoo=miniature_second"]).zoo, resolve=True)
        first = OmegaConf.to_container(compose("pretrain"), resolve=True)["models"]
    assert list(zoo) == list(models)
    assert not set(models) & set(first)
    assert len({spec["seed"] for spec in models.values()} | {0}) == len(models) + 1, "every model has a seed of its own"
    parameters = 0
    for name, spec in models.items():
        built = script.build(name, {**spec, "num_classes": 104})
        assert (zoo[name]["model"], zoo[name].get("model_args")) == (spec["model"], spec.get("model_args"))
        parameters += sum(weight.numel() for weight in built.net.parameters())
    assert 2 * parameters < 25e6, "bytes in half precision"


def numbered(count: int) -> Pictures:
    """Images whose first pixel is their number, of three classes in turn."""
    images = np.zeros((count, 32, 32, 3), np.uint8)
    images[:, 0, 0, 0] = np.arange(count)
    return Pictures(images, np.arange(count) % 3)


CLASSES = ["fashion/Bag", "icon/apps", "glyph/A"]


def test_a_model_sees_its_sources_and_its_share_alone():
    some = script.part_of("model", {"sources": ["icon", "glyph"]}, CLASSES, numbered(60))
    assert some.labels.tolist() == [1, 2] * 20
    settings = {"share": 0.5, "seed": 1}
    half = script.part_of("model", settings, CLASSES, numbered(60))
    chosen = half.images[:, 0, 0, 0].tolist()
    assert len(set(chosen)) == 30
    assert [number % 3 for number in chosen] == half.labels.tolist()
    again = script.part_of("model", settings, CLASSES, numbered(60))
    assert again.images[:, 0, 0, 0].tolist() == chosen
    other = script.part_of("model", {"share": 0.5, "seed": 2}, CLASSES, numbered(60))
    assert set(other.images[:, 0, 0, 0].tolist()) != set(chosen)
    everything = script.part_of("model", {}, CLASSES, numbered(60))
    assert everything.images[:, 0, 0, 0].tolist() == list(range(60))


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"sources": ["icons"]}, "models.model.sources=icons"), ({"share": 1.5}, r"models\.model\.share=1\.5")],
)
def test_wrong_parts_of_the_corpus_are_named(settings, message):
    with pytest.raises(SettingError, match=message):
        script.part_of("model", settings, CLASSES, numbered(6))


def test_training_uses_the_chosen_images(tmp_path, monkeypatch):
    seen = []

    def stop(name, module, pictures, *_):
        seen.append(len(pictures))
        raise RuntimeError("enough")

    monkeypatch.setattr(pretraining, "train", stop)
    only = Job("half", {}, lambda: build("supervised"), choose=lambda pictures: pictures.take(torch.arange(5)))
    assert "enough" in walk(numbered(40), tmp_path).run([only])["half"]
    assert seen == [5]
