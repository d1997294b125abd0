"""Fine-tune every model of a zoo: ``python train_groundtruth.py --help`` has the settings and examples."""

from itm.cli.train_groundtruth import main

if __name__ == "__main__":
    main()
