"""Builds mixers by name: from a mixer's name and options to the encoder's `make_mixer`."""

from __future__ import annotations

import importlib
import inspect
import traceback
from collections.abc import Mapping
from typing import Any

from flax import nnx

from models import class_path
from models.core.blocks import Mixer
from models.core.encoder import MakeMixer

CONTEXT = ("heads", "qkv", "dropout", "residual_dropout", "rotary", "layer", "layers")
"""Arguments that the encoder passes to a mixer whose `__init__` names them; all others are the mixer's own options."""


def load_mixer(name: str) -> type:
    """Imports a mixer's class, by its name in `MIXERS` or as 'package.module:Class'.

    Raises:
        ValueError: the name is neither, or the module or class cannot be imported.
    """
    path = class_path(name)
    module, colon, attribute = path.partition(":")
    if not colon:
        raise ValueError(f"unknown model '{name}'")
    try:
        mixer = getattr(importlib.import_module(module), attribute)
    except (Exception, SystemExit) as error:  # whatever a module's code raises
        raise ValueError(f"cannot import the mixer '{path}': {_describe(error)}") from None
    if not isinstance(mixer, type):
        raise ValueError(f"the mixer '{path}' is not a class")
    return mixer


def _describe(error: BaseException) -> str:
    """An error of an import, with the place in the module's code where it was raised."""
    if isinstance(error, SyntaxError):  # names its place itself
        return f"{type(error).__name__}: {error}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
    place = f" ({frames[-1].filename}, line {frames[-1].lineno})" if len(frames) > 1 else ""
    return f"{type(error).__name__}: {error}{place}"


def mixer_parameters(mixer: type) -> Mapping[str, inspect.Parameter]:
    """Keyword parameters of a mixer's `__init__`, other than self, dim, length and rngs."""
    parameters = inspect.signature(mixer.__init__).parameters  # type: ignore[misc]
    return {name: p for name, p in parameters.items() if name not in ("self", "dim", "length", "rngs")}


def mixer_factory(name: str, options: Mapping[str, Any], **context: Any) -> MakeMixer:
    """Returns a `make_mixer` for the encoder.

    Args:
        name: the mixer, as in `load_mixer`.
        options: the mixer's own options.
        **context: values of `CONTEXT`, passed on where the mixer names them.

    Raises:
        ValueError: the mixer has no such option, or no rotary positions where they are asked for.
    """
    mixer = load_mixer(name)
    accepted = mixer_parameters(mixer)
    known = sorted(set(accepted) - set(CONTEXT))
    for option in options:
        if option not in known:
            raise ValueError(f"{name} has no option '{option}'; it has {', '.join(known) or 'none'}")

    if context.get("rotary") and "rotary" not in accepted:
        raise ValueError(f"{name} has no rotary positions: choose other encoder.positions for it")

    def make(layer: int, dim: int, length: int, rngs: nnx.Rngs) -> Mixer:
        named = {key: value for key, value in (context | {"layer": layer}).items() if key in accepted}
        built: Mixer = mixer(dim, length, **named, **options, rngs=rngs)
        return built

    return make
