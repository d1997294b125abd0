"""CPU seconds of imports and of help, each in a process of its own; the second run of each counts.

python benchmarks/imports.py
"""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CASES = {
    "import itm": ["-c", "import itm"],
    "import itm.data": ["-c", "import itm.data"],
    "itm.estimate": ["-c", "import itm; itm.estimate"],
    "itm.metrics": ["-c", "import itm; itm.metrics"],
    "itm.scorers": ["-c", "import itm; itm.scorers"],
    "estimate.py --help": [str(ROOT / "estimate.py"), "--help"],
    "train_groundtruth.py --help": [str(ROOT / "train_groundtruth.py"), "--help"],
}


def cpu_seconds(words: list[str]) -> float:
    """Return CPU seconds, user and system, of one Python process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *words], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Print one line per case."""
    for name, words in CASES.items():
        cpu_seconds(words)  # the first run compiles to bytecode
        print(f"{name:<30}{cpu_seconds(words):6.2f} s")


if __name__ == "__main__":
    main()
