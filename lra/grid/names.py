"""Names on the command line: models with their options, tasks, protocols."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from configs import PROTOCOLS
from configs.recipe import Protocol, suggest
from lra.errors import UsageError
from lra.grid.cell import ModelSpec
from models import MIXERS


def parse_models(words: Sequence[str], all_models: Sequence[str]) -> list[ModelSpec]:
    """Parses a comma-separated list of models, in which 'option=value' belongs to the model before it.

    Args:
        words: the list's items.
        all_models: names that the item 'all' expands to.

    Raises:
        UsageError: a name that is neither a model, 'all' nor 'package.module:Class'.
    """
    models: list[ModelSpec] = []
    for word in words:
        before, _, last = word.rpartition(":")
        if "=" in word and not before:
            if not models:
                raise UsageError(f"--models: no model precedes the option '{word}'")
            models[-1] = ModelSpec(models[-1].name, (*models[-1].options, _option(word)))
        elif "=" in last:
            models.append(ModelSpec(before, (_option(last),)))
        else:
            models += [ModelSpec(name) for name in (all_models if word == "all" else [word])]
    for model in models:
        if model.name not in MIXERS and ":" not in model.name:
            raise UsageError(suggest("model", model.name, [*MIXERS, "all"]))
        names = [name for name, _ in model.options]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise UsageError(f"--models: {model} has the option '{twice}' twice")
    return list(dict.fromkeys(ModelSpec(model.name, tuple(sorted(model.options))) for model in models))


def _option(word: str) -> tuple[str, str]:
    name, _, value = word.partition("=")
    return name, value


def resolve_names(kind: str, names: Sequence[str], known: Iterable[str], all_names: Sequence[str]) -> list[str]:
    """The names without duplicates, with 'all' expanded.

    Args:
        kind: what they name, for the error message.
        names: names as given by the user.
        known: allowed names.
        all_names: names that 'all' expands to.

    Raises:
        UsageError: an unknown name.
    """
    known = list(known)
    for name in names:
        if name != "all" and name not in known:
            raise UsageError(suggest(kind, name, [*known, "all"]))
    return list(dict.fromkeys(n for name in names for n in (all_names if name == "all" else [name])))


def find_protocol(name: str) -> Protocol:
    """The protocol of that name. Raises `UsageError` suggesting the nearest one."""
    if name not in PROTOCOLS:
        raise UsageError(suggest("protocol", name, PROTOCOLS))
    return PROTOCOLS[name]
