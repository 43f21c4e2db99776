"""From a mixer's name to a function that makes one mixer a layer. Imports JAX."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from flax import nnx

from models import MIXERS
from models.core.encoder import MakeMixer, Mixer

CONTEXT = ("heads", "qkv", "dropout", "layer", "layers")
"""What the encoder tells a mixer that names it in its `__init__`; everything else a mixer names is its own option."""


def load_mixer(name: str) -> type:
    """The mixer's class, by its name in `MIXERS` or as 'package.module:Class'.

    Raises:
        ValueError: the name is neither, or the module or class cannot be imported.
    """
    place = MIXERS.get(name, name)
    module, colon, attribute = place.partition(":")
    if not colon:
        raise ValueError(f"unknown model '{name}'")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"cannot import the mixer '{place}': {error}") from None
    if not isinstance(found, type):
        raise ValueError(f"the mixer '{place}' is not a class")
    return found


def mixer_parameters(mixer: type) -> Mapping[str, inspect.Parameter]:
    """The keyword parameters of a mixer's `__init__` beside self, dim, length and rngs."""
    found = inspect.signature(mixer.__init__).parameters  # type: ignore[misc]
    return {name: p for name, p in found.items() if name not in ("self", "dim", "length", "rngs")}


def mixer_factory(name: str, options: Mapping[str, Any], **context: Any) -> MakeMixer:
    """A `make_mixer` for the encoder: gives the mixer its options, and what of `context` it names.

    Raises:
        ValueError: an option that the mixer does not have.
    """
    mixer = load_mixer(name)
    named = mixer_parameters(mixer)
    own = sorted(set(named) - set(CONTEXT))
    for option in options:
        if option not in own:
            raise ValueError(f"{name} has no option '{option}'; it has {', '.join(own) or 'none'}")

    def make(layer: int, dim: int, length: int, rngs: nnx.Rngs) -> Mixer:
        told = {k: v for k, v in (context | {"layer": layer}).items() if k in named}
        made: Mixer = mixer(dim, length, **told, **options, rngs=rngs)
        return made

    return make
