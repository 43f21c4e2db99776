"""The parent's one look at the device and at the mixers asked for, in a process of its own.

`python -m lra.train.describe '[["performer", {"features": "64"}], …]'` prints JSON: the device
(`device.describe`), and for each mixer its options with their types, or in `error` one line on what is wrong.
"""

from __future__ import annotations

import inspect
import json
import sys
import types
import typing
from collections.abc import Mapping
from typing import Any

import jax
from flax import nnx

from configs.lra import TASKS as RECIPES
from configs.recipe import RecipeError, parse_value, suggest
from lra.errors import UsageError
from lra.train import device
from models import MIXERS
from models.core.encoder import Encoder
from models.core.factory import CONTEXT, load, mixer_factory, parameters


def hints(mixer: type) -> dict[str, Any]:
    """A mixer's own options and their types; 'int | None' counts as int."""
    found = typing.get_type_hints(mixer.__init__)  # type: ignore[misc]
    return {name: _plain(found.get(name, str)) for name in parameters(mixer) if name not in CONTEXT}


def _plain(hint: Any) -> Any:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return next(part for part in typing.get_args(hint) if part is not type(None))
    return hint


def typed(name: str, options: Mapping[str, str]) -> dict[str, Any]:
    """The options of one mixer as values of their types. Raises `UsageError`."""
    try:
        known = hints(load(name))
    except ValueError as error:
        raise UsageError(str(error)) from None
    for option in options:
        if option not in known:
            raise UsageError(f"{name}: {suggest('option', option, known)}")
    return {option: parse_value(text, known[option], f"{name}:{option}") for option, text in options.items()}


def text_parameters(name: str) -> int:
    """Parameters of a model of the official Text configuration at length 1,000, with its mixer's default options.

    The vocabulary is the official code's 260, so that counts can be compared with those published.
    """
    e = RECIPES["text"].encoder
    make = mixer_factory(name, {}, heads=e.heads, qkv=e.qkv, dropout=e.attention_dropout, layers=e.layers)
    shape: dict[str, Any] = {"vocab": 260, "classes": 2, "length": 1000, "dim": e.dim, "layers": e.layers, "mlp": e.mlp}
    module = nnx.eval_shape(lambda: Encoder(make, **shape, rngs=nnx.Rngs(0)))
    return int(sum(p.size for p in jax.tree.leaves(nnx.state(module, nnx.Param))))


def details() -> list[dict[str, Any]]:
    """What `list models --details` shows of each mixer: paper, equation and cost, its options, its parameters."""
    rows = []
    base = text_parameters("transformer")
    for name in MIXERS:
        mixer = load(name)
        defaults = parameters(mixer)
        shown = {option: defaults[option].default for option in hints(mixer)}
        count = text_parameters(name)
        rows.append(
            {
                "name": name,
                "text": inspect.getdoc(mixer) or "",
                "options": {k: str(v) for k, v in shown.items()},
                "parameters": f"{count:,} at the official Text shape, L 1,000 ({count / base:.2f} × transformer's)",
            }
        )
    return rows


if __name__ == "__main__":
    try:
        if sys.argv[1] == "details":
            answer: dict[str, Any] = {"models": details()}
        else:
            options = [typed(name, asked) for name, asked in json.loads(sys.argv[1])]
            answer = {"options": options, "device": device.describe()}
    except (UsageError, RecipeError) as wrong:
        answer = {"error": str(wrong)}
    json.dump(answer, sys.stdout)
