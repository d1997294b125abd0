"""The report as one HTML page that needs no other file and no network."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import jinja2
import torch
from PIL import Image

from itm.core.console import number_format, printable
from itm.core.errors import DataError
from itm.core.provenance import versions
from itm.data.image_set import ImageSet
from itm.report import figures
from itm.report.decision import agreement, alternatives, verdict
from itm.report.masks import legend, mask_rows
from itm.report.pictures import thumbnail

if TYPE_CHECKING:
    from itm.report.report import Report

_log = logging.getLogger(__name__)

_CLASSES = 24  # classes that are shown with an image
_SIDE = 112  # longer side of a sample image, pixels


def to_html(report: Report) -> str:
    """Render the page: recommendation, alternatives, ranking, hard classes, ground truth, images, settings.

    A figure that cannot be drawn is left out with a warning in the log.
    """
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, finalize=_clean, undefined=jinja2.StrictUndefined
    )
    environment.filters["column"] = _column
    template = environment.from_string((files("itm.report") / "templates" / "report.html.j2").read_text("utf-8"))
    sizes = {name: candidate.parameters for name, candidate in report.candidates.items()}
    first = report.rankings[0]
    pictures = []
    for ranking in report.rankings:
        drawn = [_picture(figures.score_bars, ranking), _picture(figures.score_curves, ranking)]
        pictures.append([picture for picture in drawn if picture is not None])
    examples = report.examples
    truth_picture = None
    if report.comparison is not None and len(report.comparison.rows) > 0:
        truth_picture = _picture(figures.truth_scatter, report.rankings, report.truth, report.measure)
    return template.render(
        report=report,
        alternatives=alternatives(report.recommendation, report.candidates),
        warnings=report.all_warnings(),
        size_picture=_picture(figures.score_against_size, first, sizes),
        class_picture=_picture(figures.class_bars, report.difficulty),
        truth_picture=truth_picture,
        pictures=pictures,
        samples=[] if examples else [(name, thumbnail(image, _SIDE)) for name, image in sample_images(report.images)],
        masks=[] if examples is None else mask_rows(examples),
        legend=[] if examples is None else legend(examples),
        classes_left_out=max(0, len(report.images.classes) - _CLASSES),
        versions=versions(),
        verdicts=[verdict(ranking) for ranking in report.rankings],
        settings=json.dumps(report.settings, indent=2, ensure_ascii=False),
        failures=report.failures(),
        agreement=agreement(report.rankings) if len(report.rankings) > 1 else None,
    )


def sample_images(images: ImageSet, classes: int = _CLASSES) -> list[tuple[str, Image.Image]]:
    """Return one image of each class, with the name of the class.

    Args:
        images: The images; the first readable one of a class is taken, classes without one are left out.
        classes: Most classes to show; of more classes some are chosen evenly.
    """
    count = len(images.classes)
    chosen = torch.linspace(0, count - 1, min(classes, count)).long().tolist()
    samples = []
    for label in chosen:
        for index in torch.nonzero(images.labels == label).flatten().tolist():
            with contextlib.suppress(DataError):
                samples.append((images.classes[label], images.image(index)))
                break
    return samples


def _picture(draw: Callable[..., figures.Figure | None], *arguments: Any) -> str | None:
    """Draw a figure as a data address; None where there is nothing to draw or drawing failed."""
    try:
        figure = draw(*arguments)
        return None if figure is None else figures.as_data_uri(figure)
    except Exception as error:  # no error of a figure may cost the page
        _log.warning("A figure of the report could not be drawn (%s): %s", draw.__name__, error)
        return None


def _clean(value: Any) -> Any:
    """Make text printable; markup and numbers pass."""
    return printable(value, keep="\n\t") if type(value) is str else value


def _column(values: list[float | None], digits: int = 3) -> list[str]:
    """Format the numbers of a column alike; None becomes empty."""
    form = number_format(values, digits)
    return ["" if value is None else format(value, form) for value in values]
