"""Rankings against the ground truth, on one dataset and on several."""
