"""Features of source data, for the scores that compare the images with what a model was trained on before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from itm.core.errors import DataError, SettingError
from itm.extraction.pool import ExtractionSettings, extract_pool
from itm.scorers import Scorer


def with_source_features(
    scorers: Mapping[str, Scorer], source: Mapping[str, Any], extraction: ExtractionSettings
) -> dict[str, Scorer]:
    """Give the features of source data to the scores that lack them, such as :class:`itm.scorers.PED`.

    Args:
        scorers: Scores by the name of their ranking.
        source: ``name`` of the dataset, None for none, and ``limit``.
        extraction: Settings of the run's own extraction; only its ``data`` is replaced.

    Returns:
        The scores in their order; nothing is extracted where all have what they need, or ``source`` names nothing.

    Raises:
        DataError: If the source data are not there or cannot be read.
        SettingError: If their name or the limit is not possible.
    """
    lacking = [name for name, scorer in scorers.items() if getattr(scorer, "source", source) is None]
    if source["name"] is None or not lacking:
        return dict(scorers)
    plain = {"range": None, "bands": None, "columns": None, "config": None}  # of the run's own images
    try:
        settings = replace(extraction, data={**extraction.data, **plain, **source}, images=None)
        pool = extract_pool(settings).features
    except (DataError, SettingError) as error:
        message = str(error).replace("data.limit=", "source.limit=")
        raise type(error)(f"source.name={source['name']}: {message}") from error
    return {**scorers, **{name: replace(scorers[name], source=pool) for name in lacking}}  # type: ignore[call-arg]
