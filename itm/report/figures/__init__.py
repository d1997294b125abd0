"""Every figure of the project, in one style."""

from matplotlib.figure import Figure

from itm.report.figures.benchmark import benchmark_dots, radar, subset_scatter
from itm.report.figures.embeddings import distance_violins, evolution_planes, similarity_image
from itm.report.figures.rankings import class_bars, score_against_size, score_bars, score_curves, truth_scatter
from itm.report.figures.style import as_data_uri, axis_label, save
from itm.report.figures.sweeps import sweep_dots, sweep_lines, sweep_spread

__all__ = [
    "Figure",
    "as_data_uri",
    "axis_label",
    "benchmark_dots",
    "class_bars",
    "distance_violins",
    "evolution_planes",
    "radar",
    "save",
    "score_against_size",
    "score_bars",
    "score_curves",
    "similarity_image",
    "subset_scatter",
    "sweep_dots",
    "sweep_lines",
    "sweep_spread",
    "truth_scatter",
]
