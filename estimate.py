"""Rank pre-trained backbones on a dataset: ``python estimate.py --help`` has the settings and examples."""

from itm.cli.estimate import main

if __name__ == "__main__":
    main()
