"""``python -m itm.groundtruth collect``: a table of accuracies from records of trials."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from itm.groundtruth import collect


def main(arguments: Sequence[str] | None = None) -> None:
    """Collect records of trials into a table of accuracies."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["collect"]:
        return collect.main(arguments[1:])
    parser = argparse.ArgumentParser(prog="python -m itm.groundtruth", description=main.__doc__)
    parser.add_argument("command", choices=["collect"], help="`collect --help` lists its arguments")
    parser.parse_args(arguments)
    return None


if __name__ == "__main__":
    main()
