"""Imports run downwards only, read from the syntax tree."""

import ast
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "itm"

# Each room may import from the rows below its own.
ROWS = [
    {"__init__"},
    {"analysis", "cli", "sweep", "tracking"},
    {"report"},
    {"tables"},
    {"comparison", "figures", "standings"},
    {"grid", "ranking", "truth", "zoo"},
    {"miniature.contrastive", "miniature.masked", "miniature.pretraining", "miniature.supervised"},
    {"extract", "scorers", "training", "miniature.module"},
    {"machine"},
    {"decoding", "finetune"},
    {"adaptation", "miniature.corpus"},
    {"backbones", "data", "estimator", "groundtruth", "metrics", "uncertainty"},
    {"catalog", "collect", "dva", "networks", "resume"},
    {"miniature.targets"},
    {"miniature.glyphs", "miniature.icons"},
    {"miniature.backdrops", "miniature.packages", "miniature.pictures", "miniature.views"},
    {"folders", "geometric", "batches", "checkpoints", "torchvision_models", "rowwise", "scaling", "store", "progress"},
    {"cells"},
    {"epochs", "features", "forked", "images", "protocol", "provenance", "runtime", "splits", "stepwise"},
    {"atomic", "errors", "miniature"},
]
ALL = set().union(*ROWS)
# Only these rooms know these libraries.
OWNERS = {
    "hydra": {"analysis", "cli", "sweep"},
    "omegaconf": {"analysis", "cli", "sweep"},
    "wandb": {"tracking"},
    "timm": {"adaptation", "backbones", "networks"},
    "peft": {"adaptation"},
    "matplotlib": {"figures"},
    "jinja2": {"report"},
    "fontTools": {"miniature.glyphs"},
    "kornia": {"miniature.views"},
    "lightly": {"miniature.contrastive", "miniature.masked"},
    "resvg_py": {"miniature.icons"},
}
# Cached features score on a machine without images, networks or a hub.
NOT_FOR_SCORERS = {"backbones", "catalog", "data", "extract", "folders", "images", "networks"}


def imports_of(path: Path) -> set[str]:
    """Full names of every module that a file imports anywhere, ``from a import b`` as ``a`` and ``a.b``."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative imports hide the row"
            found |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def rooms(path: Path) -> set[str]:
    return {room_named(name.split(".")[1:]) for name in imports_of(path) if name.startswith("itm.")} & ALL


def room_named(parts: Sequence[str]) -> str:
    """The room of a module: its file where that has a row, else the folder that it lies in."""
    name = ".".join(parts[:2])
    return name if name in ALL else parts[0]


def row_of(room: str) -> int:
    return next(place for place, row in enumerate(ROWS) if room in row)


FILES = sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    return room_named(path.relative_to(PACKAGE).with_suffix("").parts)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_downwards(path):
    room = room_of(path)
    assert room in ALL, f"{room} has no row yet"
    upwards = {other for other in rooms(path) - {room} if row_of(other) <= row_of(room)}
    assert not upwards, f"{room} imports {upwards} from its own row or above"


@pytest.mark.parametrize("library", OWNERS)
def test_libraries_have_one_owner(library):
    users = {room_of(path) for path in FILES if any(name.split(".")[0] == library for name in imports_of(path))}
    assert users == OWNERS[library]


@pytest.mark.parametrize("path", sorted((PACKAGE / "scorers").glob("*.py")), ids=lambda path: path.name)
def test_scorers_know_nothing_of_images(path):
    assert not rooms(path) & NOT_FOR_SCORERS
    assert not {"PIL", "torchvision"} & {name.split(".")[0] for name in imports_of(path)}


def test_the_check_sees_an_upward_import(tmp_path):
    file = tmp_path / "dva.py"
    file.write_text("def f():\n    from itm.report.report import Report\n    import itm.scorers.base\n")
    assert rooms(file) == {"report", "scorers"}


@pytest.mark.parametrize("script", ["estimate.py", "train_groundtruth.py"])
def test_entry_scripts_are_thin(script):
    assert len((ROOT / script).read_text(encoding="utf-8").splitlines()) <= 80


@pytest.mark.parametrize("path", sorted((PACKAGE / "scorers").glob("*.py")), ids=lambda path: path.stem)
def test_scorers_import_scikit_learn_where_they_use_it(path: Path) -> None:
    statements = ast.parse(path.read_text(encoding="utf-8")).body  # of the module itself: what every start pays for
    modules = [node.module or "" for node in statements if isinstance(node, ast.ImportFrom)]
    modules += [alias.name for node in statements if isinstance(node, ast.Import) for alias in node.names]
    assert not [name for name in modules if name.split(".")[0] == "sklearn"]
