"""Which weights of a matrix stay when it is pruned.

A matrix `[in_features, out_features]`, `[k, n]`, is divided into units that stay or go as a whole:
single weights, blocks, or the steps of the pattern "balanced". A unit's score is the root mean
square of its weights, their magnitude if there is one; the largest scores stay. "N:M" needs no
scores: it compares the weights of one group with each other.

"balanced" is for kernels that multiply `PANEL` outputs at a time. Each output of a panel keeps
equally many weights of a window of `WINDOW` inputs, and so no output waits for another. Sorted by
magnitude, an output's weights of one window fall into steps of `STEP`; one step of the panel is
that of all its outputs:

    window of 64 inputs k        output 0    output 1   ...   output 15
    step 0, the 4 largest        k=3 9 22 41    k=0 5 17 60    k=8 9 30 63    64 weights
    step 1, the next 4           k=7 8 11 50    k=2 9 33 34    k=1 4 12 55    64 weights
    ...                          ...
    step 15, the 4 smallest

A step's weights are no larger than those of the step before: from the first, as many stay as the
window and panel are worth, which the ranking of all steps of the matrix decides.
"""

import dataclasses
import math
import numbers
import operator
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]

BALANCED = "balanced"
WINDOW = 64  # Inputs that "balanced" sorts together: an index fits 6 bits, a mask 64.
PANEL = 16  # Outputs that keep equally many weights of a window: float32 of an AVX-512 register.
STEP = 4  # Weights of an output that stay or go together.

_GROUPS = (4, 8, 16, 32, 64, 128)


@dataclasses.dataclass(frozen=True)
class _Units:
    """What stays or goes as a whole in one matrix.

    Attributes:
        scores: Root mean square of each unit, in an array of any shape.
        sizes: Weights in each unit, of the same shape.
        expand: Makes the mask `[k, n]` out of one of the units.
    """

    scores: npt.NDArray[Any]
    sizes: npt.NDArray[np.int64]
    expand: Callable[[Mask], Mask]


def keep_mask(
    kernel: npt.ArrayLike,
    *,
    sparsity: float | None = None,
    threshold: float | None = None,
    pattern: str | None = None,
    block: Sequence[int] = (1, 1),
) -> Mask:
    """Which weights of a matrix stay; all others become zero.

    Units of zeros never stay: with nothing asked, what stays is what is not zero. Of equal units
    the first stay, in the order of k, then n.

    Args:
        kernel: Finite floating-point array `[in_features, out_features]`.
        sparsity: Fraction of zeros, 0 <= sparsity < 1: all units but those of the smallest scores
            stay. `round(sparsity * kernel.size)` weights are zero, or fewer where units are larger
            than one weight, or more where more were zero before.
        threshold: Units of a score below it go, >= 0.
        pattern: `None`, where every weight stays or goes by itself; `"N:M"`, such as `"8:64"`: of
            M consecutive inputs of an output the N largest weights stay, M = 4, 8, 16, 32, 64 or
            128 and 1 <= N <= M, which fixes the sparsity; or `"balanced"`, which needs `sparsity`:
            see this module's description.
        block: Inputs and outputs of the blocks that stay or go as a whole. Those at the edges are
            smaller.

    Returns:
        Boolean array `[in_features, out_features]`.

    Raises:
        TypeError: If `kernel` is not floating-point, or an option has the wrong type.
        ValueError: If `kernel` is not a finite matrix, or the options are out of range or exclude
            each other.

    Example:
        >>> keep_mask(np.array([[0.1, -3.0], [2.0, 0.2]]), sparsity=0.5)
        array([[False,  True],
               [ True, False]])
    """
    return keep_masks(
        [kernel], sparsity=sparsity, threshold=threshold, pattern=pattern, block=block
    )[0]


def keep_masks(
    kernels: Iterable[npt.ArrayLike],
    *,
    sparsity: float | None = None,
    threshold: float | None = None,
    pattern: str | None = None,
    block: Sequence[int] = (1, 1),
) -> list[Mask]:
    """Which weights of several matrices stay, by one ranking of all their units.

    Args:
        kernels: Finite floating-point arrays `[in_features, out_features]`.
        sparsity: Fraction of zeros of all the matrices together; see `keep_mask`.
        threshold: See `keep_mask`.
        pattern: See `keep_mask`.
        block: See `keep_mask`.

    Returns:
        A boolean array for each matrix.

    Raises:
        TypeError: If a kernel is not floating-point, or an option has the wrong type.
        ValueError: If a kernel is not a finite matrix, or the options are out of range or exclude
            each other.
    """
    check_pattern(sparsity=sparsity, threshold=threshold, pattern=pattern, block=block)
    magnitudes = [_magnitudes(kernel) for kernel in kernels]
    if pattern is not None and pattern != BALANCED:
        return [_keep_groups(matrix, *parse_groups(pattern)) for matrix in magnitudes]
    if pattern == BALANCED:
        units = [_steps(matrix) for matrix in magnitudes]
    elif tuple(block) == (1, 1):
        units = [_weights(matrix) for matrix in magnitudes]
    else:
        units = [_blocks(matrix, *block) for matrix in magnitudes]
    if sparsity is not None:
        kept = _largest(units, sparsity)
    else:
        with np.errstate(over="ignore"):
            # float32, as the weights are: one that equals the threshold as a float32 stays.
            lowest = np.float32(threshold or 0.0)
        kept = [unit.scores.astype(np.float32, copy=False) >= lowest for unit in units]
    return [unit.expand(keep & (unit.scores > 0)) for unit, keep in zip(units, kept, strict=True)]


def check_pattern(
    *,
    sparsity: float | None = None,
    threshold: float | None = None,
    pattern: str | None = None,
    block: Sequence[int] = (1, 1),
) -> None:
    """Checks the options of `keep_mask`, each by itself and together.

    Args:
        sparsity: See `keep_mask`.
        threshold: See `keep_mask`.
        pattern: See `keep_mask`.
        block: See `keep_mask`.

    Raises:
        TypeError: If an option has the wrong type.
        ValueError: If one is out of range, or two exclude each other.
    """
    if sparsity is not None:
        _check_number("sparsity", sparsity)
        if not 0 <= sparsity < 1:
            raise ValueError(
                f"`sparsity` must be a fraction of zeros, 0 <= sparsity < 1; received {sparsity}."
            )
    if threshold is not None:
        _check_number("threshold", threshold)
        if not 0 <= threshold < math.inf:
            raise ValueError(f"`threshold` must be finite and >= 0; received {threshold}.")
        if sparsity is not None:
            raise ValueError(
                "`threshold` must be None where `sparsity` is given; received "
                f"threshold={threshold} and sparsity={sparsity}. Either says how much goes."
            )
    whole_blocks = _check_block(block) != (1, 1)
    if pattern is None:
        return
    if not isinstance(pattern, str):
        raise TypeError(f"`pattern` must be None or a string; received {pattern!r}.")
    if whole_blocks:
        raise ValueError(
            f"`block` must be (1, 1) where `pattern` is given; received block={tuple(block)} and "
            f"pattern={pattern!r}."
        )
    if pattern == BALANCED:
        if sparsity is None:
            raise ValueError(
                f"`sparsity` must be given with pattern={BALANCED!r}; received None (threshold="
                f"{threshold})."
            )
        return
    parse_groups(pattern)
    if sparsity is not None or threshold is not None:
        raise ValueError(
            "`sparsity` and `threshold` must be None with an N:M pattern, which fixes the "
            f"sparsity; received sparsity={sparsity}, threshold={threshold} and pattern="
            f"{pattern!r}."
        )


def parse_groups(pattern: str) -> tuple[int, int]:
    """The numbers of an N:M pattern.

    Args:
        pattern: Such as `"8:64"`.

    Returns:
        `(n, m)`: of `m` consecutive inputs of an output, `n` weights stay.

    Raises:
        ValueError: If `pattern` is not "N:M" with an M that exists and 1 <= N <= M.

    Example:
        >>> parse_groups("8:64")
        (8, 64)
    """
    match = re.fullmatch(r"([0-9]{1,3}):([0-9]{1,3})", pattern)
    n, m = map(int, match.groups()) if match else (0, 0)
    if m not in _GROUPS or not 1 <= n <= m:
        raise ValueError(
            f"`pattern` must be None, {BALANCED!r} or 'N:M' with M one of {_GROUPS} and 1 <= N <= "
            f"M; received {pattern!r}."
        )
    return n, m


def _check_number(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"`{name}` must be None or a number; received {value!r}.")


def _check_block(block: Any) -> tuple[int, ...]:
    if not isinstance(block, (tuple, list)) or any(
        isinstance(size, bool) or not isinstance(size, numbers.Integral) for size in block
    ):
        raise TypeError(f"`block` must be a pair of integers; received {block!r}.")
    if len(block) != 2 or min(block) < 1:
        raise ValueError(
            f"`block` must be two positive integers, (inputs, outputs); received {block!r}."
        )
    return tuple(map(operator.index, block))


def _magnitudes(kernel: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """The magnitudes of a weight matrix in float32."""
    array = np.asarray(kernel)
    if not array.dtype.name.startswith(("float", "bfloat")):
        raise TypeError(
            f"`kernel` must be floating-point; received {array.dtype.name} (shape {array.shape})."
        )
    if array.ndim != 2:
        raise ValueError(
            f"`kernel` must be a matrix [in_features, out_features]; received shape {array.shape}. "
            "Reshape it."
        )
    with np.errstate(over="ignore"):  # A float64 beyond float32 is an infinity.
        magnitudes: npt.NDArray[np.float32] = np.abs(array.astype(np.float32, copy=False))
    if not np.isfinite(magnitudes.max(initial=0)):  # A NaN is the maximum, too.
        count = int(magnitudes.size - np.isfinite(magnitudes).sum())
        raise ValueError(
            f"`kernel` must be finite; received {count} NaN or infinite values (shape "
            f"{array.shape}). Check the training that made them."
        )
    return magnitudes


def _weights(magnitudes: npt.NDArray[np.float32]) -> _Units:
    """Every weight by itself."""
    sizes = np.broadcast_to(np.int64(1), magnitudes.shape)
    return _Units(magnitudes, sizes, lambda keep: keep)


def _blocks(magnitudes: npt.NDArray[np.float32], rows: int, columns: int) -> _Units:
    """Blocks of `rows` inputs and `columns` outputs."""
    k, n = magnitudes.shape
    row_starts, column_starts = np.arange(0, k, rows), np.arange(0, n, columns)
    squares = np.square(magnitudes, dtype=np.float64)
    sums = np.add.reduceat(np.add.reduceat(squares, row_starts, axis=0), column_starts, axis=1)
    heights = np.minimum(rows, k - row_starts)
    widths = np.minimum(columns, n - column_starts)
    sizes = np.multiply.outer(heights, widths)

    def expand(keep: Mask) -> Mask:
        return np.repeat(np.repeat(keep, heights, axis=0), widths, axis=1)

    return _Units(np.sqrt(sums / sizes), sizes, expand)


def _steps(magnitudes: npt.NDArray[np.float32]) -> _Units:
    """The steps of "balanced": scores `[windows, panels, steps of a window]`."""
    k, n = magnitudes.shape
    panels = -(-n // PANEL)
    groups = _grouped(magnitudes, WINDOW, panels * PANEL)
    windows = len(groups)
    order = np.argsort(-groups, axis=-1, kind="stable")
    squares = np.square(np.take_along_axis(groups, order, axis=-1), dtype=np.float64)
    steps = (windows, panels, PANEL, WINDOW // STEP, STEP)
    heights = np.clip(k - WINDOW * np.arange(windows)[:, None] - STEP * np.arange(steps[3]), 0, 4)
    widths = np.minimum(PANEL, n - PANEL * np.arange(panels))
    sizes = heights[:, None, :] * widths[None, :, None]
    scores = np.sqrt(squares.reshape(steps).sum(axis=(2, 4)) / np.maximum(sizes, 1))
    # Rounding must not put a short step before the full one that it follows.
    scores = np.minimum.accumulate(scores, axis=-1)

    def expand(keep: Mask) -> Mask:
        by_rank = np.broadcast_to(keep[:, :, None, :, None], steps).reshape(groups.shape)
        return _scattered(by_rank, order, magnitudes.shape)

    return _Units(scores, sizes, expand)


def _keep_groups(magnitudes: npt.NDArray[np.float32], n: int, m: int) -> Mask:
    """At most `n` weights of `m` consecutive inputs."""
    groups = _grouped(magnitudes, m, magnitudes.shape[1])
    order = np.argsort(-groups, axis=-1, kind="stable")
    by_rank = np.broadcast_to(np.arange(m) < n, groups.shape)
    return _scattered(by_rank, order, magnitudes.shape) & (magnitudes > 0)


def _grouped(
    magnitudes: npt.NDArray[np.float32], size: int, columns: int
) -> npt.NDArray[np.float32]:
    """`[groups, columns, size]`: consecutive inputs, zeros after the last input and output."""
    k, n = magnitudes.shape
    groups = -(-k // size)
    padded = np.pad(magnitudes, ((0, groups * size - k), (0, columns - n)))
    return np.ascontiguousarray(padded.reshape(groups, size, columns).swapaxes(1, 2))


def _scattered(by_rank: Mask, order: npt.NDArray[np.intp], shape: tuple[int, ...]) -> Mask:
    """The mask `[k, n]` out of one over the sorted groups of `_grouped`."""
    mask = np.empty(order.shape, np.bool_)
    np.put_along_axis(mask, order, by_rank, axis=-1)
    groups, columns, size = order.shape
    whole: Mask = mask.swapaxes(1, 2).reshape(groups * size, columns)
    return whole[: shape[0], : shape[1]]


def _largest(units: Sequence[_Units], sparsity: float) -> list[Mask]:
    """The units of the largest scores: as few as hold the weights that are to stay."""
    if not units:
        return []
    scores = np.concatenate([unit.scores.ravel() for unit in units])
    sizes = np.concatenate([unit.sizes.ravel() for unit in units])
    weights = int(sizes.sum())
    staying = weights - round(sparsity * weights)
    mask = np.zeros(len(scores), np.bool_)
    if staying:
        # A stable sort of all scores takes three times as long: only those at the cut are in order.
        ranked = np.argsort(scores)[::-1]
        cut = scores[ranked[np.searchsorted(np.cumsum(sizes[ranked]), staying)]]
        mask = scores > cut
        missing = staying - int(sizes[mask].sum())
        equal = np.flatnonzero(scores == cut)
        mask[equal[: np.searchsorted(np.cumsum(sizes[equal]), missing) + 1]] = True
    ends = np.cumsum([unit.scores.size for unit in units])
    parts = np.split(mask, ends[:-1])
    return [part.reshape(unit.scores.shape) for part, unit in zip(parts, units, strict=True)]
