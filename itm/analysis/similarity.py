"""How alike the maps learned for different models and datasets are (Table 4)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from itm.core.features import Features
from itm.report.figures import Figure, similarity_image
from itm.scorers import ITM
from itm.scorers.base import check


def wz_similarity(pool: Mapping[str, Features], itm: ITM, data: str, folder: Path) -> tuple[pd.DataFrame, Figure]:
    """Similarity of the left singular vectors of ``W_z`` between every two pairs of a model and a dataset.

    Args:
        pool: Features by model.
        itm: Trains the maps.
        data: Name of the dataset.
        folder: Where the singular vectors are kept (``w_z/*.safetensors``); those of other datasets that lie there are
            compared, too.

    Returns:
        A square table with the pairs as rows (column ``pair``) and columns, empty where the widths of two models'
        features differ, and the same as an image.
    """
    (kept := folder / "w_z").mkdir(parents=True, exist_ok=True)
    bases = {}
    for model, features in pool.items():
        (w_z,) = itm.train(check(model, features)).module.w_z.detach()
        bases[f"{model} on {data}"] = torch.linalg.svd(w_z.double(), full_matrices=False).U.contiguous()
    save_file(bases, kept / f"{quote(data, safe='')}.safetensors")
    everything = {pair: basis for file in sorted(kept.glob("*.safetensors")) for pair, basis in load_file(file).items()}
    pairs = sorted(everything, key=lambda pair: pair.rpartition(" on ")[::-1])
    table = pd.DataFrame(
        [[subspace_similarity(everything[a], everything[b]) for b in pairs] for a in pairs], index=pairs, columns=pairs
    )
    figure = similarity_image(table)
    return table.rename_axis("pair").reset_index(), figure


def subspace_similarity(u: Tensor, v: Tensor) -> float:
    """Mean squared cosine of the principal angles between two subspaces, ``‖UᵀV‖²_F / min(p, q)``.

    The paper does not print its formula. This one explains what it reports between unrelated pairs, 0.131 to 0.138 for
    ViT-B features and about a hundred classes: two random subspaces of widths p and q give max(p, q)/D on average,
    100/768 = 0.130.

    Args:
        u: Orthonormal columns, ``[D, p]``.
        v: Orthonormal columns, ``[D, q]``.

    Returns:
        Between 0 (orthogonal) and 1 (one holds the other); NaN where the widths ``D`` differ.
    """
    if len(u) != len(v):
        return float("nan")
    return float((u.T @ v).square().sum()) / min(u.shape[1], v.shape[1])
