"""Every config composes, and what it names can be built."""

from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import get_class, instantiate
from omegaconf import OmegaConf

import itm.scorers
from itm.evaluation.truth import find_truth
from itm.groundtruth import tables as groundtruth
from itm.groundtruth.grid import Grid

CONFIGS = Path(__file__).parents[1] / "configs"
SEVERAL = {"all", "dcd_variants", "itm_variants"}  # configs of several scorers


def names(group: str) -> list[str]:
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


def composed(*overrides: str, hydra: bool = False, entry: str = "estimate"):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose(entry, list(overrides), return_hydra_config=hydra)


@pytest.mark.parametrize("name", [name for name in names("scorer") if name not in SEVERAL])
def test_scorer_configs_hold_the_dataclass_s_own_defaults(name):
    cfg = composed(f"scorer={name}")
    assert list(cfg.scorer) == [name]
    scorer = instantiate(cfg.scorer[name])
    assert scorer.name == name
    assert scorer == type(scorer)(), "a config repeats the default so that it can be overridden, and must not drift"


def test_every_exported_scorer_has_a_config():
    needing_source = {"ped"}
    assert set(itm.scorers.BY_NAME) - needing_source <= set(names("scorer"))


def test_all_takes_every_scorer():
    chosen = set(composed("scorer=all").scorer)
    assert chosen == set(names("scorer")) - SEVERAL - {"dcd"}  # of vision-language models, and needs other tasks


def test_each_variant_of_itm_changes_one_setting():
    variants = {name: instantiate(node) for name, node in composed("scorer=itm_variants").scorer.items()}
    assert len({*variants.values()}) == len(variants)
    default = asdict(variants.pop("itm"))
    short = default | {"iterations": 100}
    for name, variant in variants.items():
        base = short if name.startswith("itm_100_") and name != "itm_100_iterations" else default
        assert len(asdict(variant).items() - base.items()) == 1, name


def test_several_scorers_keep_their_order():
    assert list(composed("scorer=[itm,logme]").scorer) == ["itm", "logme"]


@pytest.mark.parametrize("name", names("truth"))
def test_true_rankings_compose_into_a_grid(name):
    cfg = composed(f"+truth={name}", entry="train_groundtruth")
    grid = Grid.from_settings(OmegaConf.to_container(cfg, resolve=True))
    assert grid.protocol.name == name.replace("_", "-")
    assert len(cfg.zoo) == {"miniature": 16, "vlm": 12}.get(name.split("_")[0], len(composed("zoo=demo").zoo))


@pytest.mark.parametrize("name", [name for name in names("zoo") if name != "auto"])
def test_zoos_name_models_with_known_settings(name):
    from itm.models.backbone import load_backbone
    from itm.models.entry import ZooEntry

    zoo = composed(f"zoo={name}").zoo
    if any((spec or {}).get("library") == "open_clip" for spec in zoo.values()):
        pytest.importorskip("open_clip")
    known = set(load_backbone.__kwdefaults__) if load_backbone.__kwdefaults__ else set()
    assert len(zoo) >= 2
    for model, spec in zoo.items():
        assert set(spec or {}) <= known, model
        ZooEntry.read(model, spec).find_model()


def test_the_paper_s_zoos_are_those_of_its_tables():
    assert set(composed("zoo=paper10").zoo) == set(groundtruth.PAPER10)
    assert set(composed("zoo=paper20").zoo) == set(groundtruth.load("paper").index)
    assert set(composed("zoo=cnn12").zoo) == set(groundtruth.PAPER_CNNS)


@pytest.mark.parametrize("name", names("trainer"))
def test_trainers_have_the_same_settings(name):
    assert set(composed(f"trainer={name}").trainer) == {"accelerator", "precision", "batch_size", "workers"}
    assert isinstance(composed(f"trainer={name}").trainer.precision, str)


def test_the_grid_of_the_ground_truth_is_the_paper_s_and_the_code_s_own_default():
    grid = Grid.from_settings(OmegaConf.to_container(composed(entry="train_groundtruth"), resolve=True))
    assert grid == Grid(lr=[1e-5, 2e-5, 5e-5], weight_decay=[1e-2, 1e-4], seeds=[0], best_seeds=[])
    assert (tuple(grid.lr), tuple(grid.weight_decay), tuple(grid.seeds)) == (Grid().lr, Grid().weight_decay, (0,))
    assert (grid.protocol.epochs, grid.protocol.batch_size) == (100, 64)


@pytest.mark.parametrize(("group", "name"), [(group, name) for group in ("zoo", "trainer") for name in names(group)])
def test_the_ground_truth_s_entry_takes_every_zoo_and_trainer(group, name):
    settings = OmegaConf.to_container(composed(f"{group}={name}", entry="train_groundtruth"), resolve=True)
    grid = Grid.from_settings(settings)
    assert settings["zoo"]
    assert grid.protocol.precision == settings["trainer"]["precision"]
    if name == "v100":
        assert grid.protocol.precision == "16"
        assert settings["trainer"]["batch_size"] >= grid.protocol.batch_size


@pytest.mark.parametrize("name", names("tracking"))
def test_tracking_configs_can_be_built(name):
    node = composed(f"tracking={name}").tracking
    if name == "none":
        assert not node
    else:
        instantiate(node)


@pytest.mark.parametrize("name", names("experiment"))
def test_experiments_compose_and_every_job_can_be_built(name):
    cfg = composed(f"+experiment={name}", hydra=True)
    swept = OmegaConf.to_container(cfg.hydra.sweeper.params) if cfg.hydra.sweeper.params else {}
    assert bool(swept) == str(cfg.hydra.mode).endswith("MULTIRUN")
    assert cfg.tracking.group == name
    for callback in (cfg.hydra.callbacks or {}).values():
        assert get_class(callback._target_)
    for key, values in swept.items():
        for value in str(values).split(","):
            jobs = composed(f"+experiment={name}", f"{key}={value}")
            for node in jobs.scorer.values():
                instantiate(node)


PAPER = ("zoo=paper10", "trainer=v100", "groundtruth=paper", "data.limit=null")


@pytest.mark.parametrize("name", names("experiment"))
def test_experiments_compose_with_the_paper_s_models_and_data(name):
    cfg = composed(f"+experiment={name}", *PAPER, "data.name=pets")
    assert set(cfg.zoo) == set(groundtruth.PAPER10)
    assert (cfg.data.name, cfg.data.limit, cfg.trainer.accelerator) == ("pets", None, "cuda")


def test_the_paper_s_models_have_their_published_accuracy_on_its_data():
    for data in groundtruth.PAPER_COLUMN:
        truth = find_truth("paper", data, list(groundtruth.PAPER10), CONFIGS)
        assert truth is not None
        assert set(groundtruth.PAPER10) <= set(truth.accuracy), data


def test_cuda_trainers_name_what_is_missing():
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    from itm.core.errors import SettingError

    scorer = instantiate(composed("trainer=gpu").scorer.itm)
    features = itm.Features(torch.randn(6, 2), torch.arange(6) % 2)
    with pytest.raises(SettingError, match="no CUDA device"):
        scorer.score({"m": features})
