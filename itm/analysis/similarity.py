"""How alike the maps learned for different models and datasets are (Table 4)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args
from urllib.parse import quote

import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from itm.core.errors import unknown
from itm.core.features import Features
from itm.report.figures import Figure, similarity_image
from itm.scorers import ITM
from itm.scorers.base import check

Width = Literal["smaller", "larger"]


def wz_similarity(
    pool: Mapping[str, Features], itm: ITM, data: str, folder: Path, divide_by: Width = "smaller"
) -> tuple[pd.DataFrame, Figure]:
    """Compare the left singular vectors of ``W_z`` between every two pairs of a model and a dataset.

    Args:
        pool: Features by model.
        itm: Trains the maps.
        data: Name of the dataset.
        folder: Where the singular vectors are kept (``w_z/*.safetensors``); those of other datasets that lie there are
            compared, too.
        divide_by: Width that :func:`subspace_similarity` divides by.

    Returns:
        A square table with the pairs as rows (column ``pair``) and columns, empty where the widths of two models'
        features differ, and the same as an image.

    Raises:
        SettingError: If ``divide_by`` is not known.
    """
    if divide_by not in get_args(Width):
        raise unknown("divide_by", divide_by, get_args(Width))
    kept = folder / "w_z"
    kept.mkdir(parents=True, exist_ok=True)
    bases = {}
    for model, features in pool.items():
        (w_z,) = itm.train(check(model, features)).module.w_z.detach()
        bases[f"{model} on {data}"] = torch.linalg.svd(w_z.double(), full_matrices=False).U.contiguous()
    save_file(bases, kept / f"{quote(data, safe='')}.safetensors")
    everything: dict[str, Tensor] = {}
    for file in sorted(kept.glob("*.safetensors")):
        everything |= load_file(file)
    pairs = sorted(everything, key=lambda pair: pair.rpartition(" on ")[::-1])
    table = pd.DataFrame(index=pairs, columns=pairs, dtype=float)
    for a, b in itertools.product(pairs, repeat=2):
        table.loc[a, b] = subspace_similarity(everything[a], everything[b], divide_by)
    figure = similarity_image(table)
    return table.rename_axis("pair").reset_index(), figure


def subspace_similarity(u: Tensor, v: Tensor, divide_by: Width = "smaller") -> float:
    """Return the similarity of two subspaces, ``‖UᵀV‖²_F`` divided by the width of one subspace.

    The paper does not print its formula (Table 4). Two random subspaces have ``‖UᵀV‖²_F = pq/D`` on average. Divided by
    the larger width that is 100/768 = 0.130 for ViT-B features and about a hundred classes, also beside the 196 classes
    of Cars, and the table prints 0.131 to 0.138 between unrelated pairs, with and without Cars. So ``"larger"`` is the
    likely reading of the paper. ``"smaller"`` (ours) is the mean squared cosine of the principal angles, which gives
    0.255 between Cars and the other datasets.

    Args:
        u: Orthonormal columns, ``[D, p]``.
        v: Orthonormal columns, ``[D, q]``.
        divide_by: ``"smaller"`` divides by ``min(p, q)``, ``"larger"`` by ``max(p, q)``. Both agree where ``p = q``.

    Returns:
        From 0 (orthogonal) to 1: one subspace holds the other, and with ``"larger"`` both are equal. NaN where the
        widths ``D`` differ.
    """
    if len(u) != len(v):
        return float("nan")
    width = min if divide_by == "smaller" else max
    return float((u.T @ v).square().sum()) / width(u.shape[1], v.shape[1])
