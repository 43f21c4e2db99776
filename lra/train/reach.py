"""How far a trained model looks: accuracy under cut and shuffled inputs, and sensitivity by distance.

Five measures of a finished model, none of which trains anything; docs/reach.md says what each means and does not mean.

- windows: the input is cut into windows that the layers cannot look out of (bag of windows: Brendel and Bethge 2019,
  arXiv:1904.00760); in `shifted` the first is half as long, as a control.
- within, blocks: tokens are shuffled within blocks, or whole blocks are (Khandelwal et al. 2018, arXiv:1805.04623;
  O'Connor and Andreas 2021, arXiv:2106.08367).
- first, last, random: only a stretch of the tokens is left.
- jacobian: how much a state depends on the tokens at each distance (effective receptive field: Luo et al. 2016,
  arXiv:1701.04128).

All is drawn from fixed seeds (`shuffles.draw_bits`), so the numbers depend on the model, the data and the sample alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lra.train.data import Batch, tokens_of
from lra.train.shuffles import CHANGES, draw_bits

Tree = Any
EXAMPLES = 500
"""Examples of the test split on which accuracies are measured."""
DOCUMENTS, PLACES, SIGNS = 16, 16, 4
"""Of the Jacobian: documents, states of each, and random directions of each state."""
MIN_GAIN = 0.05
"""The accuracy above the most frequent class below which no range is told."""
Make = Callable[[Tree], Any]
"""Makes a model (`models.core.encoder.Encoder`), in evaluation mode, of its parameters and other state."""


@dataclass(frozen=True)
class Sample:
    """Examples on the host: raw values uint8 [N, P, L], true lengths int32 [N, P], labels [N]."""

    values: np.ndarray
    lengths: np.ndarray
    labels: np.ndarray
    row: int = 0
    """Tokens of a picture's row, which is one of the sizes of blocks; 0 for text."""

    @property
    def majority(self) -> float:
        """The share of the most frequent class."""
        return float(np.bincount(self.labels).max() / len(self.labels))


def measure(
    make: Make,
    seeds: Sequence[Tree],
    initial: Sequence[Tree],
    sample: Sample,
    batch: int,
    check: Callable[[], None] = lambda: None,
) -> list[dict[str, Any]]:
    """All measures of one model, trained with several seeds.

    Args:
        make: makes the model of a seed's variables, which are arguments of what is compiled.
        seeds: each seed's parameters and other state.
        initial: the same before training, of which only the Jacobian is measured.
        sample: the examples.
        batch: examples that are computed at once; it changes accuracies only where logits tie.
        check: is called between programs, and raises an exception to stop.

    Returns:
        A record's field for each seed: `k`, and accuracies by each of these sizes; the Jacobian, also before
        training; and ranges. None stands where the mixer does not take windows as short as this.
    """
    length = sample.values.shape[2]
    sizes, coarse = powers(2, length), sorted({*powers(4, length), min(sample.row or length, length)})
    plain = jax.jit(lambda variables, tokens, mask: make(variables)(tokens, mask))

    def accuracies(run: Callable[..., jax.Array], values: np.ndarray, lengths: np.ndarray) -> list[float | None]:
        check()
        changed = dataclasses.replace(sample, values=values, lengths=lengths)
        return [_accuracy(run, variables, changed, batch) for variables in seeds]

    whole = accuracies(plain, sample.values, sample.lengths)
    windows = {k: whole if k == length else _window_accuracies(make, k, k, accuracies, sample) for k in sizes}
    shifted = [
        windows[k] if k in (1, length) else _window_accuracies(make, k, k // 2, accuracies, sample) for k in coarse
    ]
    changed = {
        name: [
            whole if k == unchanged_at(name, length) else accuracies(plain, *change(sample.values, sample.lengths, k))
            for k in coarse
        ]
        for name, change in CHANGES.items()
    }
    norms = [summarise(*of_seed) for of_seed in jacobian(make, [*seeds, *initial], sample, batch, check)]
    found = []
    for place in range(len(seeds)):
        of_seed: dict[str, Any] = {"examples": len(sample.labels), "majority": sample.majority, "k": sizes}
        of_seed["windows"] = [at_k[place] if at_k else None for at_k in windows.values()]
        for q in (50, 90):
            of_seed[f"range_{q}"] = window_range(sizes, of_seed["windows"], sample.majority, q / 100)
        of_seed["coarse_k"] = coarse
        of_seed["shifted"] = [at_k[place] if at_k else None for at_k in shifted]
        of_seed |= {name: [at_k[place] for at_k in by_size] for name, by_size in changed.items()}
        found.append(of_seed | {"jacobian": norms[place], "jacobian_initial": norms[len(seeds) + place]})
    return found


def unchanged_at(name: str, length: int) -> int:
    """The size at which a change leaves the input as it is, so that its accuracy is known."""
    return 1 if name == "within" else length


def powers(base: int, length: int) -> list[int]:
    """1, base, base², … below the length, and the length."""
    return [*(base**e for e in range(length.bit_length()) if base**e < length), length]


def window_range(sizes: Sequence[int], accuracies: Sequence[float | None], majority: float, share: float) -> int | None:
    """The least window that keeps this share of the accuracy above the most frequent class; None if there is little."""
    last = accuracies[-1]
    if last is None or last - majority < MIN_GAIN:
        return None
    goal = majority + share * (last - majority)
    return next(k for k, value in zip(sizes, accuracies, strict=True) if value is not None and value >= goal)


def _window_accuracies(
    make: Make, size: int, first: int, accuracies: Callable[..., list[float | None]], sample: Sample
) -> list[float | None] | None:
    """Accuracies with the tokens cut into windows, of which the first has `first` tokens.

    None for a mixer that cannot take sequences of this length.
    """

    def logits(variables: Tree, tokens: jax.Array, mask: jax.Array) -> jax.Array:
        model, (count, documents, length) = make(variables), tokens.shape
        flat = model.encode_windows(tokens.reshape(-1, length), mask.reshape(-1, length), size, first)
        return model.classify(flat.reshape(count, documents, -1))

    try:
        return accuracies(jax.jit(logits), sample.values, sample.lengths)
    except (TypeError, ValueError, IndexError, ZeroDivisionError):
        return None


def _accuracy(run: Callable[..., jax.Array], variables: Tree, sample: Sample, batch: int) -> float:
    count = len(sample.labels)
    correct = 0
    for start in range(0, count, batch):
        rows = np.arange(start, start + batch)
        rows = np.where(rows < count, rows, 0)
        part = Batch(*(jnp.asarray(a[rows]) for a in (sample.values, sample.lengths, sample.labels)))
        answers = np.asarray(jax.device_get(run(variables, *tokens_of(part)))).argmax(-1)
        real = min(batch, count - start)
        correct += int((answers[:real] == sample.labels[rows[:real]]).sum())
    return correct / count


Norms = tuple[np.ndarray, np.ndarray, np.ndarray]
"""√J [N, I, L], positions i [N, I], and lengths [N]."""


def jacobian(
    make: Make, seeds: Sequence[Tree], sample: Sample, batch: int, check: Callable[[], None] = lambda: None
) -> list[Norms]:
    """How much states depend on tokens: √(E_v ‖vᵀ ∂h_i/∂e_j‖²) over random signs v, which is ‖∂h_i/∂e_j‖_F.

    h_i is the state after the last norm at position i, e_j the embedded token at position j before positions are added.
    The first `DOCUMENTS` examples' first documents are taken, and `PLACES` random positions i of each.
    """
    values, lengths = sample.values[:DOCUMENTS, :1], sample.lengths[:DOCUMENTS, :1]
    places = (draw_bits((len(lengths), PLACES), 4) % np.maximum(lengths, 1).astype(np.uint32)).astype(np.int32)
    width = jax.eval_shape(lambda variables: make(variables).embed(jnp.zeros((1, 1), jnp.int32)), seeds[0]).shape[-1]
    signs = 1.0 - 2.0 * (draw_bits((len(lengths), PLACES * SIGNS, width), 5) & np.uint32(1))

    @jax.jit
    def norms(variables: Tree, batch: Batch, places: jax.Array, signs: jax.Array) -> jax.Array:
        model = make(variables)
        tokens, mask = (a[:, 0] for a in tokens_of(batch))
        front = int(model.cls is not None)
        states, pull = jax.vjp(lambda x: model.states(x, mask)[0][:, front:], model.embed(tokens))
        rows = jnp.arange(tokens.shape[0])

        def squares(place_and_signs: tuple[jax.Array, jax.Array]) -> jax.Array:
            place, signs = place_and_signs
            (gradient,) = pull(jnp.zeros_like(states).at[rows, place].set(signs.astype(states.dtype)))
            return jnp.square(gradient.astype(jnp.float32)).sum(-1)

        found = jax.lax.map(squares, (jnp.repeat(places.T, SIGNS, axis=0), signs.swapaxes(0, 1)))
        return jnp.sqrt(found.reshape(PLACES, SIGNS, *tokens.shape).mean(1)).swapaxes(0, 1)

    made = []
    for variables in seeds:
        parts = []
        for start in range(0, len(lengths), batch):
            check()
            rows = slice(start, start + batch)
            part = Batch(*map(jnp.asarray, (values[rows], lengths[rows], sample.labels[:DOCUMENTS][rows])))
            parts.append(np.asarray(norms(variables, part, places[rows], signs[rows].astype(np.float32))))
        made.append((np.concatenate(parts), places.astype(np.int64), lengths[:, 0]))
    return made


def summarise(norms: np.ndarray, places: np.ndarray, lengths: np.ndarray) -> dict[str, Any]:
    """The Jacobian's mass by distance: m(d) is the mean norm over the pairs of real tokens that are d apart.

    Returns:
        `at_0`: m(0)'s share of all; `ahead`: the share of tokens after a state in the norms beside d = 0; and of
        d ≥ 1 the mean distance, `r50` and `r90`, the least distances up to which that share of the mass lies, and
        `share`, the share up to each of the distances `d`.
    """
    offset = np.arange(norms.shape[2]) - places[..., None]
    real = np.broadcast_to(np.arange(norms.shape[2]) < lengths[:, None, None], norms.shape)
    distance = np.abs(offset)[real]
    total = np.bincount(distance, weights=norms[real], minlength=norms.shape[2])
    mass = total / np.maximum(np.bincount(distance, minlength=norms.shape[2]), 1)
    beside = norms[real & (offset != 0)].sum()
    ahead = norms[real & (offset > 0)].sum()
    far = mass[1:].sum()
    if not np.isfinite(far + mass[0]):
        return {"at_0": None}
    found: dict[str, Any] = {"at_0": float(mass[0] / max(mass.sum(), 1e-30))}
    if far <= 1e-6 * mass[0]:
        return found
    share = np.cumsum(mass[1:]) / far
    marks = powers(2, len(share)) if len(share) else []
    return found | {
        "ahead": float(ahead / beside),
        "mean": float((np.arange(1, len(mass)) * mass[1:]).sum() / far),
        "r50": int(np.argmax(share >= 0.5)) + 1,
        "r90": int(np.argmax(share >= 0.9)) + 1,
        "d": marks,
        "share": [float(share[d - 1]) for d in marks],
    }
