"""The model zoo, by name. A model is its mixer: everything around it is the same `Encoder`.

The registry holds the import path of each mixer's class, so that names can be listed and checked without importing
JAX. To add a mixer, write its module in its family's package and add its line here. A mixer elsewhere needs no line:
`--models=their_package.module:Class`.
"""

from collections.abc import Mapping
from typing import Any

FAMILIES: dict[str, tuple[str, dict[str, str]]] = {
    "attention": (
        "softmax attention over all positions, over chosen ones, or with weights that are learnt",
        {
            "transformer": "transformer:Attention",
            "transformer_naive": "transformer:NaiveAttention",
            "local": "local:Local",
            "sparse": "sparse:Sparse",
            "longformer": "longformer:Longformer",
            "bigbird": "bigbird:BigBird",
            "reformer": "reformer:Reformer",
            "sinkhorn": "sinkhorn:Sinkhorn",
            "synthesizer": "synthesizer:Synthesizer",
        },
    ),
    "mixing": (
        "the same mixing of positions for every input, or none",
        {
            "fnet": "fnet:FNet",
            "fnet_hybrid": "fnet_hybrid:FNetHybrid",
            "linear_mixing": "linear_mixing:LinearMixing",
            "random_mixing": "random_mixing:RandomMixing",
            "ff_only": "ff_only:FeedForwardOnly",
        },
    ),
    "approximate": (
        "attention made cheaper by low rank, kernels, landmarks or sampling",
        {
            "linformer": "linformer:Linformer",
            "linear_transformer": "linear_transformer:LinearTransformer",
            "performer": "performer:Performer",
            "nystromformer": "nystromformer:Nystromformer",
            "luna": "luna:Luna",
            "cosformer": "cosformer:Cosformer",
            "skyformer": "skyformer:Skyformer",
        },
    ),
    "state_space": (
        "linear recurrences of states, which decay and turn",
        {
            "s4d": "s4d:S4D",
            "s5": "s5:S5",
            "lru": "lru:LRU",
            "mamba": "mamba:Mamba",
        },
    ),
    "moving_average": (
        "exponential moving averages with gated attention",
        {
            "mega": "mega:Mega",
            "mega_chunk": "mega:MegaChunk",
        },
    ),
    "convolution": (
        "convolutions, short and long",
        {
            "short_conv": "short_conv:ShortConv",
            "long_conv": "long_conv:LongConv",
            "sgconv": "sgconv:SGConv",
            "hyena": "hyena:Hyena",
            "chordmixer": "chordmixer:ChordMixer",
        },
    ),
    "recurrent": (
        "linear attention and recurrences whose memory decays",
        {
            "retnet": "retnet:RetNet",
            "gla": "gla:GLA",
            "lion_d": "lion:LionD",
            "lion_s": "lion:LionS",
            "hgrn": "hgrn:HGRN",
            "mamba2": "mamba2:Mamba2",
            "deltanet": "deltanet:DeltaNet",
            "gated_deltanet": "gated_deltanet:GatedDeltaNet",
        },
    ),
}
"""By family, which is also the package of its mixers: what they have in common, and 'module:Class' of each by name."""

MIXERS: dict[str, str] = {
    name: f"models.{family}.{path}" for family, (_, mixers) in FAMILIES.items() for name, path in mixers.items()
}
"""'package.module:Class' of every mixer, by name."""

VERSIONS: dict[str, int] = {
    "luna": 2, "performer": 2, "reformer": 2, "mamba": 2, "retnet": 2, "gla": 2, "hgrn": 2, "mamba2": 2, "deltanet": 2,
    "gated_deltanet": 2, "hyena": 2,
}  # fmt: skip
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
