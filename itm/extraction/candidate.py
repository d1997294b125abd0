"""Facts of one model that a report shows beside its score."""

from __future__ import annotations

from dataclasses import dataclass

from itm.extraction.extract import Extraction
from itm.extraction.readouts.dense import Dense
from itm.extraction.readouts.readout import POOLED, Readout
from itm.models.backbone import UNTRAINED, Backbone


@dataclass(frozen=True)
class Candidate:
    """Facts of one model that a report shows beside its score.

    Args:
        parameters: Number of parameters without the source head.
        input_size: Side of the network's input, pixels.
        dim: Width of its features.
        pooling: How patches or positions become one feature.
        transform: The transform in words.
        pretraining: What it was trained on before.
        license: Licence of its weights.
        source_accuracy: ImageNet top-1, percent, where known.
        seconds: Seconds of extraction, of the original one where the features were stored.
        images_per_second: Speed of that extraction.
        cached: Whether the features came from the store.
        skipped: Images that could not be read, with the reason.
        precision: How the network ran: ``"32"``, ``"bf16"`` or ``"16"``.
        stride: Pixels of the input per cell of the last feature map, for segmentation.
        layers: Width of each layer in a row of features, the last layer first; empty for one layer.
    """

    parameters: int
    input_size: int
    dim: int
    pooling: str
    transform: str
    pretraining: str
    license: str
    source_accuracy: float | None
    seconds: float
    images_per_second: float
    cached: bool
    skipped: tuple[str, ...] = ()
    precision: str = "32"
    stride: float | None = None
    layers: tuple[int, ...] = ()

    @property
    def untrained(self) -> bool:
        """Whether it is a randomly initialised control."""
        return self.pretraining == UNTRAINED

    @classmethod
    def from_backbone(cls, backbone: Backbone, extraction: Extraction, readout: Readout = POOLED) -> Candidate:
        """Collect the facts of a backbone and of its extraction."""
        dense = isinstance(readout, Dense)
        count = readout.layers if isinstance(readout, Dense) else 1
        return cls(
            parameters=backbone.num_parameters,
            input_size=backbone.input_size,
            dim=extraction.features.dim,
            pooling="bilinear" if dense else backbone.pooling,
            transform=readout.transform_text(backbone),
            pretraining=backbone.pretraining,
            license=backbone.license,
            source_accuracy=backbone.source_accuracy,
            seconds=extraction.seconds,
            images_per_second=extraction.images_per_second,
            cached=extraction.cached,
            skipped=extraction.skipped,
            precision=extraction.key.precision,
            stride=backbone.input_size / backbone.map_shape[-1] if dense else None,
            layers=tuple(shape[0] for shape in backbone.map_shapes(count)) if count > 1 else (),
        )
