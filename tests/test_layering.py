"""Imports run downwards only, read from the syntax tree."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "itm"

# Floors of the package, bottom first: a package imports only from floors below its own.
FLOORS = [
    {"core"},
    {"data", "dva", "metrics", "models"},
    {"extraction", "scorers"},
    {"groundtruth", "ranking"},
    {"evaluation"},
    {"report"},
    {"analysis", "cli", "tracking"},
]
# Only these packages import these libraries.
OWNERS = {
    "hydra": {"analysis", "cli"},
    "omegaconf": {"analysis", "cli"},
    "wandb": {"tracking"},
    "timm": {"groundtruth", "models"},
    "peft": {"groundtruth"},
    "matplotlib": {"report"},
    "jinja2": {"report"},
}
# Cached features score on a machine without images, networks or a hub.
NOT_FOR_SCORERS = {"data", "extraction", "models"}


def imports_of(path: Path) -> set[str]:
    """Full names of every module that a file imports anywhere, ``from a import b`` as ``a`` and ``a.b``."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative imports hide the package"
            found |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def packages(path: Path) -> set[str]:
    """Packages of ``itm`` that a file imports from."""
    return {name.split(".")[1] for name in imports_of(path) if name.startswith("itm.")}


def floor_of(package: str) -> int:
    return next(number for number, floor in enumerate(FLOORS, start=1) if package in floor)


def package_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_downwards(path: Path) -> None:
    package = package_of(path)
    if package == "__init__":
        return
    upwards = {other for other in packages(path) - {package} if floor_of(other) >= floor_of(package)}
    assert not upwards, f"{package} imports {upwards} from its own floor or above"


@pytest.mark.parametrize("library", OWNERS)
def test_libraries_have_one_owner(library):
    users = {package_of(path) for path in FILES if any(name.split(".")[0] == library for name in imports_of(path))}
    assert users == OWNERS[library]


@pytest.mark.parametrize("path", sorted((PACKAGE / "scorers").glob("*.py")), ids=lambda path: path.name)
def test_scorers_know_nothing_of_images(path):
    assert not packages(path) & NOT_FOR_SCORERS
    assert not {"PIL", "torchvision"} & {name.split(".")[0] for name in imports_of(path)}


def test_the_check_sees_an_upward_import(tmp_path):
    file = tmp_path / "dva.py"
    file.write_text("def f():\n    from itm.report.report import Report\n    import itm.scorers.base\n")
    assert packages(file) == {"report", "scorers"}


@pytest.mark.parametrize("script", ["estimate.py", "train_groundtruth.py"])
def test_entry_scripts_are_thin(script):
    assert len((ROOT / script).read_text(encoding="utf-8").splitlines()) <= 10


@pytest.mark.parametrize("path", sorted((PACKAGE / "scorers").glob("*.py")), ids=lambda path: path.stem)
def test_scorers_import_scikit_learn_where_they_use_it(path: Path) -> None:
    statements = ast.parse(path.read_text(encoding="utf-8")).body  # of the module itself: what every start pays for
    modules = [node.module or "" for node in statements if isinstance(node, ast.ImportFrom)]
    modules += [alias.name for node in statements if isinstance(node, ast.Import) for alias in node.names]
    assert not [name for name in modules if name.split(".")[0] == "sklearn"]


def test_no_two_public_classes_share_a_name():
    homes: dict[str, list[str]] = {}
    for path in (*FILES, *sorted((ROOT / "experiments").rglob("*.py"))):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes.setdefault(node.name, []).append(str(path.relative_to(ROOT)))
    assert {name: found for name, found in homes.items() if len(found) > 1} == {}
