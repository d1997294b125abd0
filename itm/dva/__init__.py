"""Divide-and-conquer variational approximation (DVA): the equations of ITM and their training."""

from itm.dva.adaptive import adaptive_steps, class_distance
from itm.dva.equations import evolve, evolve_unrolled, pseudo_centers

__all__ = ["adaptive_steps", "class_distance", "evolve", "evolve_unrolled", "pseudo_centers"]
