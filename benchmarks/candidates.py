"""Measure how long it takes to plan, filter and list many candidates without weights.

Run by hand: ``python benchmarks/candidates.py --models 1000``. Seconds of ``estimate.py zoo=auto plan=true``, with the
start of Python, and of the selection alone, on one core.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from itm.models.budget import Budget, select
from itm.models.candidates import automatic


def main() -> None:
    """Print the seconds and the numbers of models kept and removed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=1000)
    chosen = parser.parse_args()
    command = [sys.executable, "estimate.py", "zoo=auto", f"budget.models={chosen.models}", "plan=true"]
    start = time.perf_counter()
    subprocess.run(command, cwd=Path(__file__).parents[1], check=True, stdout=subprocess.DEVNULL)
    whole = time.perf_counter() - start
    zoo = {name: {"model": name, "pretrained": True} for name in automatic()}
    start, busy = time.perf_counter(), time.process_time()
    selection = select(zoo, Budget(models=chosen.models))
    seconds, busy = time.perf_counter() - start, time.process_time() - busy
    print(
        f"kept {len(selection.kept)} of {len(zoo)}; command {whole:.1f} s; selection {seconds:.2f} s, CPU {busy:.2f} s"
    )


if __name__ == "__main__":
    main()
