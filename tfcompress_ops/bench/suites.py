"""Suites: which cases a run of `tfcompress bench NAME` compares.

A format's benchmark is one file beside this one that registers a suite, such as `int8.py`; the
command line, the tables and the pytest-benchmark suites then know it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from tfcompress_ops.bench.cases import Case
from tfcompress_ops.bench.format_case import FormatCase
from tfcompress_ops.bench.peers import BASELINE, PEERS
from tfcompress_ops.bench.views import EagerCase, KernelCase

_SUITES: dict[str, "Suite"] = {}


@dataclass(frozen=True)
class Suite:
    """The cases of one benchmark.

    Attributes:
        name: Name of its command.
        summary: One line on what is compared.
        option: Command-line option that picks variants, such as "--activations".
        variants: This package's cases, by the value of `option` that picks them.
        peers: What they are measured against, besides the dense baseline.
        reference: Name of the peer that tables show a ratio to, beside that to the baseline.
        defaults: Keys of the variants that run where none are picked; all of them if empty.
        families: Cases by sparsity, for `--break-even`; by the value of `option` that picks them.
    """

    name: str
    summary: str
    option: str
    variants: Mapping[str, Case]
    peers: Sequence[Case] = PEERS
    reference: str = "litert int8"
    defaults: Sequence[str] = ()
    families: Mapping[str, Callable[[float], Case]] = field(default_factory=dict)

    def cases(
        self, variants: Sequence[str] | None = None, peers: bool = True, views: bool = False
    ) -> list[Case]:
        """The cases of a run, the dense baseline always among them.

        Args:
            variants: Keys of `variants` to measure; None for those that run by default.
            peers: Whether the peers run too.
            views: Whether each of this package's cases is followed by its kernel without
                TensorFlow, and by its op called eagerly.

        Returns:
            This package's cases, the baseline, the peers.

        Raises:
            ValueError: If a variant is unknown.
        """
        chosen = self._check(variants, self.variants, self.defaults or list(self.variants))
        ours: list[Case] = []
        for case in (self.variants[variant] for variant in chosen):
            ours.append(case)
            if views and isinstance(case, FormatCase):
                ours += [KernelCase(case), EagerCase(case)]
        return [*ours, BASELINE, *(self.peers if peers else ())]

    def chosen_families(
        self, names: Sequence[str] | None = None
    ) -> dict[str, Callable[[float], Case]]:
        """The families of a run.

        Args:
            names: Keys of `families` to measure; None for all.

        Returns:
            Those families.

        Raises:
            ValueError: If a family is unknown.
        """
        chosen = self._check(names, self.families, list(self.families))
        return {name: self.families[name] for name in chosen}

    def _check(
        self, chosen: Sequence[str] | None, known: Mapping[str, object], defaults: Sequence[str]
    ) -> Sequence[str]:
        """What was chosen, or else `defaults`, if all of it is known."""
        for name in chosen or ():
            if name not in known:
                raise ValueError(
                    f"`{self.option}` must be one of {', '.join(known)}; received {name}."
                )
        return defaults if chosen is None else chosen


def register_suite(suite: Suite) -> Suite:
    """Adds `suite` to the registry, under its name."""
    _SUITES[suite.name] = suite
    return suite


def suites() -> list[Suite]:
    """All registered suites."""
    # They register themselves.
    from tfcompress_ops.bench import all_formats, binary, int8, sparse  # noqa: F401

    return list(_SUITES.values())
