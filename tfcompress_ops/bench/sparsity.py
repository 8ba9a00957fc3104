"""Speed by sparsity: from which share of zeros on pruned weights are faster than dense ones."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from tfcompress_ops.bench import results as results_file
from tfcompress_ops.bench.cases import Case
from tfcompress_ops.bench.results import Results, speed_up
from tfcompress_ops.bench.runner import Settings

_SPARSITIES = (0.0, 0.25, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
_QUICK_SPARSITIES = (0.0, 0.5, 0.9)
_SHAPES = ((1024, 1024),)
_BATCHES = (1, 16, 128)
# All cases of all sparsities share the rounds of one point: it takes longer than a suite's does.
_BUDGET_SECONDS = 25.0

# Family and sparsity to the case that is measured there.
Sweep = dict[tuple[str, float], Case]


@dataclass(frozen=True)
class Curve:
    """The speed of one family of weights over one dense case, by sparsity.

    Attributes:
        family: Name of the family.
        over: Name of the dense case.
        subject: "K x N", the shape of the weights.
        batch: Rows of x.
        state: "hot" or "cold".
        mode: "bursts" or "alternating".
        sparsities: Fractions of zeros, ascending, 0 <= sparsity < 1.
        speed_ups: How many times faster than `over`, one for each of `sparsities`.
    """

    family: str
    over: str
    subject: str
    batch: int
    state: str
    mode: str
    sparsities: tuple[float, ...]
    speed_ups: tuple[float, ...]

    @property
    def title(self) -> str:
        """What the curves of one plot share: the shape, the state, the mode."""
        return f"{self.subject}, {self.state}, {self.mode}"

    @property
    def break_even(self) -> float | None:
        """Sparsity from which on the speed-up is at least 1; see `break_even`."""
        return break_even(self.sparsities, self.speed_ups)

    @property
    def break_even_text(self) -> str:
        """`break_even` for tables: "43 %", or "always", or "never to 99 %"."""
        found = self.break_even
        if found is None:
            return f"never to {100 * self.sparsities[-1]:g} %"
        if found == self.sparsities[0]:
            return "always"
        return f"{100 * found:.0f} %"


def sweep(families: Mapping[str, Callable[[float], Case]], quick: bool = False) -> Sweep:
    """The cases that curves are drawn through, family by family, ascending in sparsity.

    Args:
        families: Name to a function from a sparsity to a case.
        quick: Whether a few sparsities will do.

    Returns:
        Family and sparsity to the case.
    """
    sparsities = _QUICK_SPARSITIES if quick else _SPARSITIES
    return {
        (name, sparsity): family(sparsity)
        for name, family in families.items()
        for sparsity in sparsities
    }


def settings_for_sweep(settings: Settings, quick: bool = False) -> Settings:
    """`settings` at the points of a sweep, with time for its many cases."""
    settings = replace(
        settings,
        shapes=_SHAPES,
        batches=_BATCHES,
        states=("hot",),
        modes=("bursts",),
        budget_seconds=_BUDGET_SECONDS,
    )
    if quick:
        settings = settings.quick()
        settings = replace(settings, shapes=settings.shapes[:1])
    return settings


def break_even(sparsities: Sequence[float], speed_ups: Sequence[float]) -> float | None:
    """The least sparsity from which on the speed-up is at least 1.

    Between two sparsities the time is interpolated linearly, since it grows with the number of
    weights that are left: `s_0 + (s_1 - s_0) * (t_0 - 1) / (t_0 - t_1)`, t = 1 / speed-up.

    Args:
        sparsities: Ascending, at least one.
        speed_ups: Positive, one for each sparsity.

    Returns:
        The sparsity; the first one if the speed-up is never below 1, `None` if the last one is.

    Raises:
        ValueError: If there are no sparsities, or not as many speed-ups.

    Example:
        >>> break_even([0.0, 0.5, 0.9], [0.5, 1.0, 4.0])
        0.5
    """
    if not sparsities or len(sparsities) != len(speed_ups):
        raise ValueError(
            "`sparsities` and `speed_ups` must hold equally many numbers, one at least; received "
            f"{len(sparsities)} and {len(speed_ups)}."
        )
    last = max((index for index, value in enumerate(speed_ups) if value < 1), default=None)
    if last is None:
        return sparsities[0]
    if last == len(speed_ups) - 1:
        return None
    before, after = 1 / speed_ups[last], 1 / speed_ups[last + 1]
    step = sparsities[last + 1] - sparsities[last]
    return sparsities[last] + step * (before - 1) / (before - after)


def with_families(results: Results, cases: Sweep) -> Results:
    """`results` in which the cases of a sweep say what family and share of zeros they are of."""
    swept = {
        case.name: replace(results.facts(case.name), family=family, sparsity=sparsity)
        for (family, sparsity), case in cases.items()
    }
    return replace(results, cases={**results.cases, **swept})


def curves(results: Results) -> list[Curve]:
    """Draws the curves of a run.

    Args:
        results: The run of a sweep, as `with_families` made it; of the dense cases that it names
            those present count.

    Returns:
        A curve for each family, dense case, subject, batch, state and mode.
    """
    layers = {(m.case, m.point): m.layer for m in results.measurements}
    families: dict[str, dict[float, str]] = {}
    for name, facts in results.cases.items():
        if facts.family:
            families.setdefault(facts.family, {})[facts.sparsity] = name
    return [
        Curve(
            family=family,
            over=dense.case,
            subject=dense.subject,
            batch=dense.batch,
            state=dense.state,
            mode=dense.mode,
            sparsities=tuple(names),
            speed_ups=tuple(
                speed_up(layers[name, dense.point], dense.layer) for name in names.values()
            ),
        )
        for dense in results.measurements
        if dense.case in (results.baseline, results.reference)
        for family, names in families.items()
    ]


def grouped(curves: Iterable[Curve]) -> dict[str, list[Curve]]:
    """Curves by `title`, in order of appearance."""
    groups: dict[str, list[Curve]] = {}
    for curve in curves:
        groups.setdefault(curve.title, []).append(curve)
    return groups


def to_json(results: Results, curves: Iterable[Curve]) -> str:
    """The results file of a sweep, with the curves and their break-even sparsities beside it."""
    found = [{**asdict(curve), "break_even": curve.break_even} for curve in curves]
    return results_file.to_json([results], curves=found)
