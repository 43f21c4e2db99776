"""The model zoo, by name. A model is its mixer: everything around it is the same `Encoder`.

The registry holds the import path of each mixer's class, so that names can be listed and checked without importing
JAX. To add a mixer, write its module and add its line here. A mixer elsewhere needs no line:
`--models=their_package.module:Class`.
"""

from collections.abc import Mapping
from typing import Any

MIXERS: dict[str, str] = {
    "transformer": "models.attention:Attention",
    "transformer_naive": "models.attention:NaiveAttention",
    "local": "models.local:Local",
    "sparse": "models.sparse:Sparse",
    "longformer": "models.longformer:Longformer",
    "bigbird": "models.bigbird:BigBird",
    "reformer": "models.reformer:Reformer",
    "sinkhorn": "models.sinkhorn:Sinkhorn",
    "fnet": "models.fnet:FNet",
    "fnet_hybrid": "models.fnet_hybrid:FNetHybrid",
    "linear_mixing": "models.linear_mixing:LinearMixing",
    "random_mixing": "models.random_mixing:RandomMixing",
    "ff_only": "models.ff_only:FeedForwardOnly",
    "linformer": "models.linformer:Linformer",
    "synthesizer": "models.synthesizer:Synthesizer",
    "linear_transformer": "models.linear_transformer:LinearTransformer",
    "performer": "models.performer:Performer",
    "nystromformer": "models.nystromformer:Nystromformer",
    "luna": "models.luna:Luna",
    "cosformer": "models.cosformer:Cosformer",
    "skyformer": "models.skyformer:Skyformer",
    "s4d": "models.s4d:S4D",
    "s5": "models.s5:S5",
    "lru": "models.lru:LRU",
    "short_conv": "models.short_conv:ShortConv",
}

VERSIONS: dict[str, int] = {"luna": 2, "performer": 2, "reformer": 2}
"""A mixer's version, where it is above 1. It goes up when the same recipe and seed give other numbers; what rounds
otherwise is no reason. It is part of a cell's key, so finished cells of other versions run again."""

ENCODER_VERSIONS: dict[str, dict[str, int]] = {"positions": {"sinusoidal": 2}}
"""Versions of the encoder's parts, where they are above 1, by field and value: {"positions": {"sinusoidal": 2}}."""


def class_path(mixer: str) -> str:
    """'package.module:Class' of a mixer: of a name in `MIXERS`, or the name itself."""
    return MIXERS.get(mixer, mixer)


def code_versions(mixer: str, encoder: Mapping[str, Any]) -> dict[str, int]:
    """Versions above 1 of the code that a cell's numbers come from: of the mixer, and of parts of the encoder.

    Args:
        mixer: its name in `MIXERS`, or 'package.module:Class', which has no version.
        encoder: the recipe's encoder, by field.
    """
    parts = {"mixer": VERSIONS.get(mixer, 1)}
    parts |= {f"encoder.{name}": ENCODER_VERSIONS[name].get(str(encoder.get(name)), 1) for name in ENCODER_VERSIONS}
    return {name: version for name, version in parts.items() if version > 1}
