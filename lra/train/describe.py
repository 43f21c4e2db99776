"""Describes the device and the requested mixers in a process of its own, since its parent does not import JAX.

`python -m lra.train.describe '[["performer", {"features": "64"}], …]'` prints JSON: the device (`device.describe`) and
for each mixer its options as typed values and its source's fingerprint; or `error` or `no_device` with a one-line
message. The argument `details` describes all mixers.
"""

from __future__ import annotations

import inspect
import json
import sys
import types
import typing
from collections.abc import Mapping
from typing import Any

from flax import nnx

from configs.lra import TASKS as RECIPES
from configs.recipe import RecipeError, parse_value, suggest
from lra.errors import UsageError
from lra.grid.source import fingerprint
from lra.train import device
from lra.train.optimizer import count_parameters
from models import MIXERS, class_path
from models.core.encoder import Encoder
from models.core.factory import CONTEXT, load_mixer, mixer_factory, mixer_parameters


def option_types(mixer: type) -> dict[str, Any]:
    """Returns the type of each option of a mixer; 'int | None' counts as int."""
    options = {name: p for name, p in mixer_parameters(mixer).items() if name not in CONTEXT}

    def annotated() -> None:  # by the options alone: the rest may be imported for type checkers only
        pass

    annotated.__annotations__ = {n: p.annotation for n, p in options.items() if p.annotation is not p.empty}
    hints = typing.get_type_hints(annotated, getattr(mixer.__init__, "__globals__", {}))  # type: ignore[misc]
    return {name: _without_none(hints.get(name, str)) for name in options}


def _without_none(hint: Any) -> Any:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return next(part for part in typing.get_args(hint) if part is not type(None))
    return hint


def typed_options(name: str, options: Mapping[str, str]) -> dict[str, Any]:
    """Parses the options of a mixer into values of their types. Raises `UsageError`."""
    try:
        mixer = load_mixer(name)
    except ValueError as error:
        raise UsageError(str(error)) from None
    try:
        known = option_types(mixer)
    except (NameError, AttributeError, TypeError, ValueError) as error:
        raise UsageError(f"{name}: the types of its options cannot be read from its __init__: {error}") from None
    for option in options:
        if option not in known:
            raise UsageError(f"{name}: {suggest('option', option, known)}")
    return {option: parse_value(text, known[option], f"{name}:{option}") for option, text in options.items()}


def text_parameters(name: str) -> int:
    """Counts the parameters of a mixer's model in the official Text configuration, at length 1,000.

    The vocabulary is the official code's 260, so that counts can be compared with the published ones.
    """
    e = RECIPES["text"].encoder
    make = mixer_factory(name, {}, heads=e.heads, qkv=e.qkv, dropout=e.attention_dropout, layers=e.layers)
    shape: dict[str, Any] = {"vocab": 260, "classes": 2, "length": 1000, "dim": e.dim, "layers": e.layers, "mlp": e.mlp}
    module = nnx.eval_shape(lambda: Encoder(make, **shape, rngs=nnx.Rngs(0)))
    return count_parameters(nnx.state(module, nnx.Param))


def details() -> list[dict[str, Any]]:
    """Describes each mixer for `list models --details`: its docstring, options and parameter count."""
    rows = []
    base = text_parameters("transformer")
    for name in MIXERS:
        mixer = load_mixer(name)
        defaults = mixer_parameters(mixer)
        options = {option: str(defaults[option].default) for option in option_types(mixer)}
        count = text_parameters(name)
        rows.append(
            {
                "name": name,
                "text": inspect.getdoc(mixer) or "",
                "options": options,
                "parameters": f"{count:,} at the official Text shape, L 1,000 ({count / base:.2f} × transformer's)",
            }
        )
    return rows


def main() -> None:
    """Prints the answer to the command line's argument."""
    try:
        if sys.argv[1] == "details":
            answer: dict[str, Any] = {"models": details()}
        else:
            mixers = [
                {"options": typed_options(name, options), "fingerprint": fingerprint(class_path(name))}
                for name, options in json.loads(sys.argv[1])
            ]
            try:
                answer = {"mixers": mixers, "device": device.describe()}
            except Exception as error:  # JAX raises several kinds, for a missing plug-in an AssertionError without text
                answer = {"no_device": str(error).split("\n")[0] or "the installed JAX does not support it"}
    except (UsageError, RecipeError) as error:
        answer = {"error": str(error)}
    print("\n" + json.dumps(answer))


if __name__ == "__main__":
    main()
