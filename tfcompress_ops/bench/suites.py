"""Suites: which cases a run of `tfcompress bench NAME` compares.

A format's benchmark is one file beside this one that registers a suite, such as `int8.py`; the
command line, the tables and the pytest-benchmark suites then know it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tfcompress_ops.bench.cases import Case
from tfcompress_ops.bench.peers import BASELINE, PEERS

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
    """

    name: str
    summary: str
    option: str
    variants: Mapping[str, Case]
    peers: Sequence[Case] = PEERS
    reference: str = "litert int8"

    def cases(self, variants: Sequence[str] | None = None, peers: bool = True) -> list[Case]:
        """The cases of a run, the dense baseline always among them.

        Args:
            variants: Keys of `variants` to measure; None for all.
            peers: Whether the peers run too.

        Returns:
            This package's cases, the baseline, the peers.

        Raises:
            ValueError: If a variant is unknown.
        """
        chosen = list(self.variants) if variants is None else list(variants)
        for variant in chosen:
            if variant not in self.variants:
                raise ValueError(
                    f"`{self.option}` must be one of {', '.join(self.variants)}; "
                    f"received {variant}."
                )
        ours = [self.variants[variant] for variant in chosen]
        return [*ours, BASELINE, *(self.peers if peers else ())]


def register_suite(suite: Suite) -> Suite:
    """Adds `suite` to the registry, under its name."""
    _SUITES[suite.name] = suite
    return suite


def suites() -> list[Suite]:
    """All registered suites."""
    from tfcompress_ops.bench import int8  # noqa: F401  (registers itself)

    return list(_SUITES.values())
