"""Features of source data, for the scores that compare the images with what a model was trained on before."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from itm.core.errors import DataError, SettingError
from itm.extraction.pool import features_of_zoo
from itm.scorers import Scorer


def with_source_features(
    scorers: Mapping[str, Scorer], source: Mapping[str, Any], extraction: Mapping[str, Any]
) -> dict[str, Scorer]:
    """Give the features of source data to the scores that lack them, such as :class:`itm.scorers.PED`.

    Args:
        scorers: Scores by the name of their ranking.
        source: ``name`` of the dataset, None for none, and ``limit``.
        extraction: A run's :data:`SETTINGS`; the images that it names are not touched.

    Returns:
        The scores in their order; nothing is extracted where all have what they need, or ``source`` names nothing.

    Raises:
        DataError: If the source data are not there or cannot be read.
        SettingError: If their name or the limit is not possible.
    """
    lacking = [name for name, scorer in scorers.items() if getattr(scorer, "source", source) is None]
    if source["name"] is None or not lacking:
        return dict(scorers)
    plain = {"range": None, "bands": None}  # of the run's own images
    try:
        _, pool, *_ = features_of_zoo(json.dumps({**extraction, "data": {**extraction["data"], **plain, **source}}))
    except (DataError, SettingError) as error:
        told = str(error).replace("data.limit=", "source.limit=")
        raise type(error)(f"source.name={source['name']}: {told}") from error
    return {**scorers, **{name: replace(scorers[name], source=pool) for name in lacking}}  # type: ignore[call-arg]
