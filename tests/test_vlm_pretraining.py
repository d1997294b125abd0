"""The vision-language models in miniature: names, vocabulary, shares of the corpus, and a training from end to end."""

import gzip

import numpy as np
import pytest
import torch

from experiments.miniature import icons
from experiments.vlm_miniature.pairs import Pairs, character_name, words_of
from experiments.vlm_miniature.tokens import CONTEXT, MERGES, VOCABULARY, learn_merges, write_merges
from itm.core.errors import DataError

pytestmark = [pytest.mark.vlm, pytest.mark.filterwarnings("ignore")]
NAMES = ("folder open", "mail new", "latin capital letter a", "greek small letter pi")


@pytest.fixture
def pairs():
    """Forty icons and twenty glyphs of two colours each, with four names."""
    rng = np.random.default_rng(0)
    labels = np.concatenate([np.arange(40) % 2, 2 + np.arange(20) % 2])
    images = (60 * labels[:, None, None, None] + rng.integers(0, 30, (60, 32, 32, 3))).astype(np.uint8)
    kinds = np.repeat([0, 1], [40, 20])
    return Pairs(images, tuple(NAMES[label] for label in labels), kinds)


def test_file_names_become_words_and_characters_their_unicode_names():
    assert words_of("folder-openNew2_x") == ["folder", "open", "new"]
    assert character_name("π") == "greek small letter pi"


def test_the_most_frequent_pieces_are_joined_first_and_ties_follow_the_alphabet():
    assert learn_merges(["aab aab", "ab"], 2) == [("a", "b</w>"), ("a", "ab</w>")]
    assert learn_merges(["ba", "dc"], 1) == [("b", "a</w>")]
    assert learn_merges(["a"], 5) == []


def test_open_clip_s_tokenizer_reads_the_vocabulary(tmp_path):
    from experiments.vlm_miniature.module import tokenize

    file = tmp_path / "merges.txt.gz"
    write_merges(learn_merges(NAMES * 3, MERGES), file)
    tokens = tokenize(NAMES, str(file))
    assert tokens.shape == (4, CONTEXT)
    assert int(tokens.max()) < VOCABULARY
    assert len(torch.unique(tokens, dim=0)) == 4
    first = file.read_bytes()
    write_merges(learn_merges(NAMES * 3, MERGES), file)
    assert file.read_bytes() == first
    assert gzip.decompress(first).decode().startswith("merges learned from names")


def test_pairs_survive_a_file_and_damage_is_named(pairs, tmp_path):
    file = tmp_path / "pairs.safetensors"
    pairs.save(file)
    assert Pairs.load(file).digest == pairs.digest
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"pairs.safetensors: not readable as pairs"):
        Pairs.load(file)


def test_a_model_sees_its_share_of_each_kind(pairs):
    from experiments.vlm_miniature.pretrain import share

    rows = share(pairs, icons=0.5, glyphs=0.1)
    assert np.bincount(pairs.kinds[rows.numpy()]).tolist() == [20, 2]
    assert set(pairs.kinds[share(pairs, 0.0, 1.0).numpy()].tolist()) == {1}


def test_the_themes_of_the_targets_are_not_in_the_corpus():
    from experiments.vlm_miniature.targets import THEMES

    corpus = {theme.package.name for theme in icons.CORPUS_THEMES}
    assert corpus.isdisjoint(theme.package.name for theme in THEMES.values())


def test_models_are_trained_once_and_load_with_their_own_prompts(pairs, tmp_path):
    from experiments.vlm_miniature.pretrain import train
    from itm.models.backbone import load_backbone

    vision = {"layers": 2, "width": 32, "head_width": 16, "patch_size": 8}
    models = {
        "both": {"vision": vision, "icons": 1.0, "glyphs": 1.0, "images": 640, "batch_size": 32},
        "glyphs": {"vision": vision, "icons": 0.0, "glyphs": 1.0, "images": 64, "batch_size": 16},
    }
    weights, state = tmp_path / "weights", tmp_path / "state"
    assert train(pairs, models, weights, state) == {}
    times = {name: (weights / name / "open_clip_model.safetensors").stat().st_mtime_ns for name in models}
    backbone = load_backbone("both", library="open_clip", model=f"local-dir:{weights / 'both'}", pretrained=True)
    assert backbone.net.text.prompts == ("{}",)
    found = backbone.features(torch.from_numpy(pairs.images[[0, 1]]).permute(0, 3, 1, 2))
    assert found.shape == (2, backbone.net.text(["mail new"]).shape[1])
    assert train(pairs, models, weights, state) == {}
    assert {name: (weights / name / "open_clip_model.safetensors").stat().st_mtime_ns for name in models} == times
