"""Random layout of a Pathfinder drawing's paddles and discs, compiled by Numba.

Every picture has its own stream of random numbers, from (seed, index). The rest is integers, table look-ups and sums
of a few rounded weights, so the result is the same on every machine.

Behaviour of the original (drewlinsley/pathfinder, `snakes2`) that is not obvious is noted in the code. One of its
rules is omitted: it gives up on a distractor if less than 1 % of the ground is free. No rules of the Long Range Arena
draw enough paddles to cover that much.
"""

import numpy as np

from tasks.pathfinder.compiled import compiled
from tasks.pathfinder.stamps import CROSSED, DEGREES, Stamps

# --- random numbers: SplitMix64 (Steele, Lea and Flood 2014), one stream per picture ---

_GOLDEN, _M1, _M2 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_S27, _S30, _S31, _S11 = np.uint64(27), np.uint64(30), np.uint64(31), np.uint64(11)


@compiled
def _mix(bits: np.uint64) -> np.uint64:
    bits = (bits ^ (bits >> _S30)) * _M1
    bits = (bits ^ (bits >> _S27)) * _M2
    return bits ^ (bits >> _S31)


@compiled
def _new_stream(seed: int, index: int) -> np.ndarray:
    """The initial state of picture `index`'s stream: uint64 [1]."""
    state = np.empty(1, np.uint64)
    state[0] = _mix(_mix(np.uint64(seed) + _GOLDEN) ^ np.uint64(index))
    return state


@compiled
def _uniform(state: np.ndarray) -> float:
    """The next number in [0, 1), with 53 random bits."""
    state[0] += _GOLDEN
    return (_mix(state[0]) >> _S11) * 2.0**-53


@compiled
def _integer(state: np.ndarray, limit: int) -> int:
    """The next integer in [0, limit)."""
    return int(_uniform(state) * limit)


@compiled
def choose_options(seed: int, start: int, count: int, options: int) -> np.ndarray:
    """Chooses an option 0 … options - 1 for each picture, by the first number of its stream: int64 [count].

    Args:
        seed: the pictures' seed.
        start: index of the first picture.
        count: number of pictures.
        options: number of options.
    """
    chosen = np.empty(count, np.int64)
    for k in range(count):
        chosen[k] = _integer(_new_stream(seed, start + k), options)
    return chosen


# --- the taken ground: mask, uint8 [size, size], 0 free … 255 taken ---

TAKEN = 76  # a first paddle needs values of at most 0.3 · 255


@compiled
def _claim(mask: np.ndarray, stamp: np.ndarray, y: int, x: int) -> None:
    """Pastes a paddle's mask centred on (y, x); the larger value stays."""
    half = stamp.shape[0] // 2
    for i in range(max(0, y - half), min(mask.shape[0], y + half + 1)):
        for j in range(max(0, x - half), min(mask.shape[1], x + half + 1)):
            mask[i, j] = max(mask[i, j], stamp[i - y + half, j - x + half])


@compiled
def _crosses(mask: np.ndarray, hard: np.ndarray, y: int, x: int) -> bool:
    """Whether a paddle at (y, x) would run into taken ground."""
    for k in range(hard.shape[0]):
        i, j = y + hard[k, 0], x + hard[k, 1]
        if 0 <= i < mask.shape[0] and 0 <= j < mask.shape[1] and mask[i, j] + hard[k, 2] >= CROSSED:
            return True
    return False


@compiled
def _max_nearby(mask: np.ndarray, near: np.ndarray, y: int, x: int) -> int:
    """The mask's largest value within the margin of (y, x)."""
    top = 0
    for k in range(near.shape[0]):
        i, j = y + near[k, 0], x + near[k, 1]
        if 0 <= i < mask.shape[0] and 0 <= j < mask.shape[1]:
            top = max(top, mask[i, j])
    return top


@compiled
def _has_room(mask: np.ndarray, core: np.ndarray, y: int, x: int) -> bool:
    """Whether all of a first paddle's core at (y, x) is free."""
    for k in range(core.shape[0]):  # noqa: SIM110  # Numba compiles no generator
        if mask[y + core[k, 0], x + core[k, 1]] > TAKEN:
            return False
    return True


@compiled
def _find_room(state: np.ndarray, mask: np.ndarray, band: int, core: np.ndarray) -> tuple[int, int]:
    """Draws a pixel uniformly from those with room for a first paddle whose core stays `band` pixels off the border.

    (-1, -1) if no pixel has room. A few blind tries come first: with much room they succeed sooner than a scan of
    all pixels, and are just as uniform.
    """
    if core.shape[0] == 0:
        return -1, -1
    low, high = band, mask.shape[0] - band
    y0, y1 = low - core[:, 0].min(), high - core[:, 0].max()
    x0, x1 = low - core[:, 1].min(), high - core[:, 1].max()
    if y0 >= y1 or x0 >= x1:
        return -1, -1
    for _ in range(24):
        y, x = y0 + _integer(state, y1 - y0), x0 + _integer(state, x1 - x0)
        if _has_room(mask, core, y, x):
            return y, x
    places = np.empty(((y1 - y0) * (x1 - x0), 2), np.int64)
    free = 0
    for y in range(y0, y1):
        for x in range(x0, x1):
            if _has_room(mask, core, y, x):
                places[free] = y, x
                free += 1
    if free == 0:
        return -1, -1
    k = _integer(state, free)
    return places[k, 0], places[k, 1]


# --- contours. A tip is int64 [5]: pivot (y, x), direction, and the last paddle's anchor (y, x) ---


@compiled
def _move(y: int, x: int, shift: np.ndarray) -> tuple[int, int]:
    """The shifted point, always rounded up, as in the original."""
    return int(np.ceil(y + shift[0])), int(np.ceil(x + shift[1]))


@compiled
def _lay_first(tables: Stamps, tip: np.ndarray, size: int, degree: int, y: int, x: int) -> bool:
    """Puts a contour's first paddle at (y, x). False if it would leave the picture."""
    hy, hx = _move(y, x, tables.head[degree])
    py, px = _move(hy, hx, tables.back[degree])
    if min(hy, hx, py, px) < 0 or max(hy, hx, py, px) >= size:
        return False
    tip[:] = py, px, degree, y, x
    return True


@compiled
def _extend(tables: Stamps, state: np.ndarray, mask: np.ndarray, tip: np.ndarray, retries: int) -> bool:
    """Adds a paddle to a contour, and claims the ground of the one before it. False if the contour is stuck."""
    y, x = _move(tip[0], tip[1], tables.step[tip[2]])
    size, candidates = mask.shape[0], tables.turn.shape[0]
    chances = np.empty(candidates)
    total = 0.0
    for c in range(candidates):
        i, j = y + tables.turn[c, 0], x + tables.turn[c, 1]
        weight = tables.weight[tip[2], c]
        if weight > 0.0 and 0 <= i < size and 0 <= j < size:
            total += weight * (1.0 - _max_nearby(mask, tables.near, i, j) / 255.0)
        chances[c] = total
    if total < 1e-4:
        return False
    for _ in range(retries + 1):
        c = np.searchsorted(chances, _uniform(state) * total, "right")
        i, j = y + tables.turn[c, 0], x + tables.turn[c, 1]
        if not _crosses(mask, tables.hard[DEGREES + c, : tables.hards[DEGREES + c]], i, j):
            _claim(mask, tables.mask[tip[2]], tip[3], tip[4])
            tip[:] = y, x, DEGREES + c, i, j
            return True
    return False


@compiled
def _lay_first_targets(
    tables: Stamps, state: np.ndarray, mask: np.ndarray, tips: np.ndarray, distance: int, retries: int
) -> bool:
    """Lays the first paddles of the two targets: one near the middle, one at a distance from it. False on failure."""
    size = mask.shape[0]
    for trial in range(retries + 1):
        degree = _integer(state, DEGREES)
        y, x = _find_room(state, mask, 2 * distance, tables.core[degree, : tables.cores[degree]])
        if y < 0:
            return False
        if _lay_first(tables, tips[0], size, degree, y, x):
            break
        if trial == retries:
            return False
    for _ in range(retries + 1):  # the second needs no free ground: it may cross the first
        degree, direction = _integer(state, DEGREES), _integer(state, DEGREES)
        y2, x2 = int(np.rint(y + tables.away[direction, 0])), int(np.rint(x + tables.away[direction, 1]))
        if _lay_first(tables, tips[1], size, degree, y2, x2):
            return True
    return False


@compiled
def _lay_targets(
    tables: Stamps, state: np.ndarray, mask: np.ndarray, paddles: np.ndarray, length: int, distance: int, retries: int
) -> bool:
    """Lays the two target contours, one paddle of each in turn. False, leaving partial results, if one is stuck.

    A paddle's ground is claimed when the next paddle of its contour is laid. So paddles laid within one turn of each
    other may cross, and so may the first target's last paddle and a distractor, as in the original.
    """
    tips = np.empty((2, 5), np.int64)
    if not _lay_first_targets(tables, state, mask, tips, distance, retries):
        return False
    for k in range(length):
        for n in range(2):
            if k > 0 and not _extend(tables, state, mask, tips[n], retries):
                return False
            paddles[n, k] = tips[n, 3], tips[n, 4], tips[n, 2]
    _claim(mask, tables.mask[tips[1, 2]], tips[1, 3], tips[1, 4])
    return True


@compiled
def _lay_distractor(
    tables: Stamps, state: np.ndarray, mask: np.ndarray, paddles: np.ndarray, length: int, retries: int
) -> bool:
    """Lays one distractor. False, leaving partial results, if it is stuck."""
    tip = np.empty(5, np.int64)
    for trial in range(retries + 1):
        degree = _integer(state, DEGREES)
        y, x = _find_room(state, mask, 1, tables.core[degree, : tables.cores[degree]])
        if y < 0:
            return False
        if _lay_first(tables, tip, mask.shape[0], degree, y, x):
            break
        if trial == retries:
            return False
    for k in range(length):
        if k > 0 and not _extend(tables, state, mask, tip, retries):
            return False
        paddles[k] = tip[3], tip[4], tip[2]
    _claim(mask, tables.mask[tip[2]], tip[3], tip[4])
    return True


@compiled
def _lay_out(
    tables: Stamps, numbers: tuple[int, ...], state: np.ndarray, paddles: np.ndarray, marks: np.ndarray
) -> int:
    """Lays out one picture, in its part of `plan`'s arrays. Returns its label."""
    size, length, short, distractors, distance, padding, contour_retries, paddle_retries = numbers
    paddles[:] = -1
    mask = np.empty((size, size), np.uint8)
    label = _integer(state, 2)
    while True:
        mask[:] = 255
        mask[padding : size - padding, padding : size - padding] = 0
        if _lay_targets(tables, state, mask, paddles, length, distance, paddle_retries):
            break
    for n in range(2, 2 + distractors):
        before = mask.copy()
        for _ in range(contour_retries + 1):
            if _lay_distractor(tables, state, mask, paddles[n], short, paddle_retries):
                break
            mask[:] = before
            paddles[n] = -1
    origin = _integer(state, 2)
    end = origin if label == 1 else 1 - origin
    marks[0] = paddles[origin, 0, :2]
    marks[1] = paddles[end, length - 1, :2]
    return label


@compiled
def plan(
    tables: Stamps, numbers: tuple[int, ...], seed: int, indices: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lays out the pictures of these indices: (paddles, marks, labels).

    Args:
        tables: the stamps of the pictures' margin.
        numbers: size, contour and distractor length, distractors, seed distance, padding, contour and paddle retries.
        seed: the pictures' seed.
        indices: the pictures' indices [B].

    Returns:
        paddles: int16 [B, 2 + distractors, contour length, 3]: each paddle's anchor (y, x) and direction, a row of
            the tables; the two targets come first; missing paddles are -1.
        marks: int16 [B, 2, 2]: (y, x) of the discs, the first at the start of a target contour.
        labels: uint8 [B]: 1 if the second disc is at the end of the same contour.
    """
    paddles = np.empty((len(indices), 2 + numbers[3], numbers[1], 3), np.int16)
    marks = np.empty((len(indices), 2, 2), np.int16)
    labels = np.empty(len(indices), np.uint8)
    for k in range(len(indices)):
        state = _new_stream(seed, indices[k])
        _uniform(state)  # the number that chose the margin
        labels[k] = _lay_out(tables, numbers, state, paddles[k], marks[k])
    return paddles, marks, labels
