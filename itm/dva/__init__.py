"""Divide-and-conquer variational approximation (DVA): the equations of ITM and their training."""
