"""The table of segmentation, its ground truth, and checks of the features."""
