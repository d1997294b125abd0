"""Speed and agreement of extraction in bfloat16, beside float32, on this processor.

Passes over the same batch of noise images take turns; the shortest of some repeats counts, in CPU seconds of a thread.
The cosine is the smallest between both features of one image, on which ``trainer.precision=auto`` decides.

    python benchmarks/precision.py tf_efficientnet_lite0 resnet18 vit_tiny_patch16_224
"""

from __future__ import annotations

import argparse
import time

import pandas as pd
import torch

from itm.core.console import print_frame
from itm.core.devices import has_bf16_units
from itm.models.backbone import load_backbone


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=["tf_efficientnet_lite0", "resnet18", "vit_tiny_patch16_224"])
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name in arguments.models:
        backbone = load_backbone(name).eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        side = backbone.input_size
        images = torch.randint(0, 256, (arguments.images, 3, side, side), dtype=torch.uint8)
        images = images.contiguous(memory_format=torch.channels_last)
        seconds: dict[str, list[float]] = {"32": [], "bf16": []}
        features = {}
        for _ in range(arguments.repeats):
            for precision, times in seconds.items():
                mixed = torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16")
                start = time.process_time()
                with torch.inference_mode(), mixed:
                    features[precision] = backbone(images)[0].float()
                times.append(time.process_time() - start)
        cosine = torch.cosine_similarity(features["32"], features["bf16"]).min()
        best = {precision: min(times) / arguments.images * 1000 for precision, times in seconds.items()}
        row = {"model": name, "ms per image, 32": best["32"], "ms per image, bf16": best["bf16"]}
        rows.append(row | {"times as fast": best["32"] / best["bf16"], "least cosine": float(cosine)})
    units = "has" if has_bf16_units("cpu") else "has no"
    print_frame(pd.DataFrame(rows).set_index("model"), f"This processor {units} bfloat16 units", digits=5)


if __name__ == "__main__":
    main()
