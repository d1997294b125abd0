"""``python -m itm.evaluation``: analyses of the published tables."""

from itm.evaluation.paper import main

if __name__ == "__main__":
    main()
