"""Pre-training as timm's ids name it, and tiers of licences."""

from __future__ import annotations

import re

# First match wins; each is searched in timm's id, ``architecture.tag``.
_PARADIGMS = (
    (r"eupe", "eupe"),
    (r"dinov3", "dinov3"),
    (r"dinov2", "dinov2"),
    (r"lingbot", "lingbot"),
    (r"\.(fb_)?dino$", "dino"),
    (r"ijepa", "ijepa"),
    (r"\.fcmae", "fcmae"),
    (r"sapiens2", "mae"),
    (r"\.mae", "mae"),
    (r"moco", "moco"),
    (r"radio", "radio"),
    (r"_pe_", "perception_encoder"),
    (r"tipsv2", "tips"),
    (r"\.pali|florence2|qwen|gemma|deepseek|intern300m", "vision_language_model"),
    (r"siglip", "siglip"),
    (r"aimv2", "aimv2"),
    (r"\.seer", "swav"),
    (r"^samvit|^sam2", "segment_anything"),
    (r"beit3", "beit3"),
    (r"^beit", "beit"),
    (r"clip|mci|vitamin|laion", "clip"),
    (r"^eva", "eva"),
    (r"ssl_yfcc|wsl_ig1b|\.swag|ns_jft", "weakly_supervised"),
    (r"dist_|distilled|ssld|deit_in1k|_dist$|\.dist_", "distilled"),
)
# Data sets as tags spell them, and their names; the longer spelling comes first.
_DATA = (
    ("lvd1689m", "lvd1689m"),
    ("lvd142m", "lvd142m"),
    ("sat493m", "sat493m"),
    ("laion400m", "laion400m"),
    ("laion2b", "laion2b"),
    ("laiona", "laion-aesthetic"),
    ("merged2b", "merged2b"),
    ("metaclip_400m", "metaclip400m"),
    ("metaclip_2pt5b", "metaclip2.5b"),
    ("metaclip2_worldwide", "metaclip-worldwide"),
    ("metaclip_altogether", "metaclip-altogether"),
    ("datacomp1b", "datacomp1b"),
    ("datacompxl", "datacomp1b"),
    ("dfndr2b", "datacompdr2b"),
    ("dfn2b", "dfn2b"),
    ("dfn5b", "dfn5b"),
    ("yfcc100m", "yfcc100m"),
    ("yfcc15m", "yfcc15m"),
    ("cc12m", "cc12m"),
    ("ig1b", "instagram1b"),
    ("swag", "instagram3.6b"),
    ("seer", "instagram1b"),
    ("jft", "jft300m"),
    ("webli", "webli"),
    ("sa1b", "sa1b"),
    ("m38m", "merged38m"),
    ("m30m", "merged30m"),
    ("bamboo", "bamboo"),
    ("openai", "wit400m"),
    ("in22k", "imagenet22k"),
    ("inw21k", "imagenet21k"),
    ("in21k", "imagenet21k"),
    ("in12k", "imagenet12k"),
    ("in1k", "imagenet1k"),
)
_DATA_NAMES = dict(_DATA)
_DATA_PATTERN = re.compile("|".join(re.escape(spelling) for spelling, _ in _DATA))
_SUPERVISED = re.compile(r"in(1k|12k|21k|22k)(_\d+)?$|inw21k$|bamboo$")

NO_WEIGHTS = "none (no weights)"
"""Licence of a network without weights, in words."""
TIERS = ("permissive", "research", "custom", "unknown")
"""Tiers of licences, the most permissive first; see :func:`tier_of`."""
_PERMISSIVE = {"apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc-by-4.0", "cc0-1.0"}
_RESEARCH = {"apple-amlr", "fair-noncommercial-research-license", "seer-license"}


def paradigm_of(name: str) -> str:
    """Return how a model of timm was pre-trained first, as its id says; later fine-tuning does not change it.

    Args:
        name: timm's id, ``architecture.tag``.

    Returns:
        ``"supervised"``, ``"distilled"``, ``"weakly_supervised"``, ``"dino"``, ``"dinov2"``, ``"dinov3"``, ``"mae"``,
        ``"fcmae"``, ``"ijepa"``, ``"beit"``, ``"beit3"``, ``"eva"``, ``"clip"``, ``"siglip"``, ``"aimv2"`` or a rarer
        word; ``"other"`` where the id does not say.
    """
    for pattern, paradigm in _PARADIGMS:
        if re.search(pattern, name):
            return paradigm
    return "supervised" if _SUPERVISED.search(name) else "other"


def data_of(name: str) -> list[str]:
    """Return the data sets that a model of timm was trained on, in their order, as far as its tag names them."""
    architecture, _, tag = name.partition(".")
    found = [_DATA_NAMES[spelling] for spelling in _DATA_PATTERN.findall(tag)]
    # tags of masked and self-distilled ViTs name no data; their authors used ImageNet-1k
    if not found and tag in ("mae", "dino", "fcmae", "fb_dino") and "sapiens2" not in architecture:
        found = ["imagenet1k"]
    if tag.startswith(("fcmae_ft", "mae_in1k_ft")):
        found = ["imagenet1k", *found[1:]] if tag.startswith("mae_in1k") else ["imagenet1k", *found]
    return found


def tier_of(license_: str | None) -> str:
    """Return the tier of a licence.

    Returns:
        ``"permissive"``: commercial use without conditions on it (Apache, MIT, BSD, CC BY). ``"research"``: not for
        commercial use. ``"custom"``: terms of its own, such as Meta's for DINOv3 or Apple's; read them. ``"unknown"``:
        not stated, which is never permissive.
    """
    word = (license_ or "unknown").casefold()
    if word in _PERMISSIVE:
        return "permissive"
    if word in _RESEARCH or "-nc" in word or "noncommercial" in word:
        return "research"
    return "unknown" if word in ("unknown", "not stated", "other", "") else "custom"
