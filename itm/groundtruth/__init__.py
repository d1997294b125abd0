"""The ground truth: fine-tuning trials, their records and tables of accuracies."""

from itm.groundtruth.tables import load, published, reported

__all__ = ["load", "published", "reported"]
