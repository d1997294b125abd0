"""Try wrong and odd settings of both commands: none may end in a traceback, hang, or take 500 MB more.

python tests/fuzz/fuzz_settings.py --count 700 --seed 0

Every case runs in a fork of one process that has imported all libraries, on a toy zoo and tiny images. Exit status 0,
1 (a trial failed) or 2 (an error of one line) is right; a traceback, a signal or a timeout is a finding.
"""

from __future__ import annotations

import argparse
import importlib
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from itm.cli import estimate, train_groundtruth
from itm.cli.folders import configs_folder

LIMIT_S = 90
LIMIT_KB = 500 * 1024

VALUES = [
    *("0", "1", "2", "3", "-1", "0.5", "1e3", "1e-300", "99999999999999999999999", "-99999999999999999999999"),
    *("nan", "inf", "-inf", "null", "true", "false", "''", "' '", "???", "${nothing}", "${seed}", "${oc.env:NOTHING}"),
    *(
        "[]",
        "[1]",
        "[null]",
        "[a,b]",
        "[[1]]",
        "{}",
        "{a: 1}",
        "{_target_: os.getcwd}",
        "abc",
        "ä ö",
        "a=b",
        "a(b",
    ),
    *(
        "'",
        "/proc/none",
        "/dev/null",
        "~",
        "..",
        "\\",
        "%s",
        "{",
        "$",
        "a,b",
        "x" * 5000,
        "0x10",
        "1_000",
        "None",
        "01",
    ),
]
"""Values of every kind; the first few are often right."""
# larger values of these are more work, not a mistake
WORK = (
    "epochs",
    "iterations",
    "seeds",
    "best_seeds",
    "n_b",
    "steps",
    "warmup_epochs",
    "latency_ms",
    "dim",
    "image_size",
)
ENGINES = ("itm.cli.pipeline", "itm.groundtruth.collect", "itm.groundtruth.export", "itm.groundtruth.worker")
GROUPS = ("zoo", "scorer", "trainer", "tracking", "experiment", "truth", "hydra/launcher", "hydra/sweeper")
# the reader of a swept value or an engine that is not installed is not ours
SKIPPED = ("hydra.mode", "hydra.sweeper", "hydra.launcher", "hydra.help", "hydra.hydra_help", "hydra.runtime")

ESTIMATE = ["~zoo", "+zoo.a={model: test_resnet, image_size: 32}", "scorer=[logme,itm]", "scorer.itm.iterations=2"]
ESTIMATE += ["scorer.itm.evaluate_every=2", "seeds=1", "jobs=1", "trainer.workers=0"]
TRAIN = ["~zoo", "+zoo.a={model: test_resnet}", "image_size=32", "grid.lr=[1e-3]", "grid.weight_decay=[1e-2]"]
TRAIN += ["protocol.epochs=1", "protocol.warmup_epochs=0", "protocol.batch_size=16", "trainer.workers=0"]


@dataclass(frozen=True)
class Command:
    """One of the two commands, with settings that make it quick."""

    name: str
    main: Callable[[], None]
    words: list[str]

    def keys(self) -> list[str]:
        """Return every setting of the command, Hydra's own among them."""
        with initialize_config_dir(str(configs_folder()), version_base="1.3"):
            cfg = compose(self.name, self.words, return_hydra_config=True)
        keys = _keys(cfg, "")
        return [key for key in keys if not key.startswith(SKIPPED)]


COMMANDS = [
    Command("estimate", estimate.main, ESTIMATE),
    Command("train_groundtruth", train_groundtruth.main, TRAIN),
]


def _keys(node: DictConfig, prefix: str) -> list[str]:
    found = []
    for name in node:
        key = f"{prefix}{name}"
        found.append(key)
        child = OmegaConf.to_container(node, resolve=False)[name]  # type: ignore[call-overload]
        if isinstance(child, dict):
            found += _keys(OmegaConf.create(child), f"{key}.")
    return found


def cases(count: int, seed: int) -> Iterator[tuple[Command, list[str]]]:
    """Yield commands with one or two overrides, drawn by the seed."""
    draw = random.Random(seed)
    keys = {command.name: command.keys() for command in COMMANDS}
    for _ in range(count):
        command = draw.choices(COMMANDS, [3, 1])[0]
        yield command, [_override(draw, keys[command.name]) for _ in range(draw.choice([1, 1, 1, 2]))]


def _override(draw: random.Random, keys: list[str]) -> str:
    if draw.random() < 0.1:
        return f"{draw.choice(['', '', '+'])}{draw.choice(GROUPS)}={draw.choice(VALUES)}"
    # Hydra has hundreds of settings of its own; ours are tried more often
    ours = [key for key in keys if not key.startswith("hydra")]
    key = draw.choice(ours if draw.random() < 0.9 else keys)
    if draw.random() < 0.05:
        return f"~{key}"
    if draw.random() < 0.05:
        key += draw.choice(["x", ".x", ".", "[0]"])
    value = draw.choice(VALUES)
    if key.rpartition(".")[2] in WORK and value[:1].isdigit():
        value = draw.choice(["0", "1", "0.5"])
    return f"{draw.choice(['', '', '', '+', '++'])}{key}={value}"


def run(command: Command, words: list[str], folder: Path, shared: Path) -> str | None:
    """Run one case in a fork; return the finding, or None."""
    folder.mkdir()
    log = folder / "log.txt"
    child = os.fork()
    if child == 0:
        _become(command, words, folder, shared, log)
    deadline = time.monotonic() + LIMIT_S
    while True:
        done, status, usage = os.wait4(child, os.WNOHANG)
        if done:
            break
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return f"no end after {LIMIT_S} s"
        time.sleep(0.01)
    said = log.read_text("utf-8", errors="replace")
    code = os.waitstatus_to_exitcode(status)
    if "Traceback (most recent call last)" in said or code not in (0, 1, 2):
        return f"exit {code}: " + " ".join(said.strip().splitlines()[-1:])[:300]
    grown = usage.ru_maxrss - _resident_kb()
    return f"{grown // 1024} MB more memory" if grown > LIMIT_KB else None


def _become(command: Command, words: list[str], folder: Path, shared: Path, log: Path) -> None:
    """Run the command in this process, which ends with it."""
    code = 70
    try:
        target = os.open(log, os.O_WRONLY | os.O_CREAT)
        os.dup2(target, 1)
        os.dup2(target, 2)
        os.chdir(folder)
        os.environ["ITM_HOME"] = str(shared / "home")
        sys.argv[:] = [f"{command.name}.py", f"data={shared / 'images'}", *command.words, *words]
        command.main()
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _resident_kb() -> int:
    text = Path("/proc/self/status").read_text("utf-8")
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("VmHWM"))


def write_images(folder: Path) -> None:
    """Write three classes of ten small images."""
    for place, name in enumerate(("ant", "bee", "cat")):
        (folder / name).mkdir(parents=True)
        for number in range(10):
            colour = tuple(20 * number + (50 if place == channel else 0) for channel in range(3))
            Image.new("RGB", (24, 24), colour).save(folder / name / f"{number}.png")


def fuzz(count: int, seed: int) -> list[str]:
    """Try the cases; return one line per finding."""
    for name in ENGINES:  # before the forks, which then start at once
        importlib.import_module(name)
    findings = []
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        write_images(root / "images")
        for number, (command, words) in enumerate(cases(count, seed)):
            finding = run(command, words, root / str(number), root)
            if finding is not None:
                shown = " ".join(word[:80] for word in words)
                findings.append(f"{command.name}.py {shown}: {finding}")
                print(findings[-1], flush=True)
    return findings


def main() -> None:
    """Try settings and exit with status 1 after a finding."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=700)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    started = time.monotonic()
    findings = fuzz(chosen.count, chosen.seed)
    seconds = time.monotonic() - started
    print(f"{chosen.count} settings, seed {chosen.seed}: {len(findings)} findings, {seconds:.0f} s")
    sys.exit(int(bool(findings)))


if __name__ == "__main__":
    main()
