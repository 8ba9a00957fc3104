"""What `tfcompress bench all` measures: every part of the performance tables, in one run.

The formats and other engines at a grid of layers, batches and states of the caches, with further
batches for one layer; the same with fewer threads; speed by share of zeros; what ops add to their
kernels; layers; models.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from tfcompress_ops.bench import machine, model_suite, processes
from tfcompress_ops.bench.all_formats import ALL_FORMATS
from tfcompress_ops.bench.layers import LayerSettings, run_layers
from tfcompress_ops.bench.layers import count_steps as count_layer_steps
from tfcompress_ops.bench.model_suite import ModelSettings, run_models
from tfcompress_ops.bench.peers import BASELINE
from tfcompress_ops.bench.results import Results
from tfcompress_ops.bench.runner import Settings, count_steps, run_suite
from tfcompress_ops.bench.sparse import SPARSE
from tfcompress_ops.bench.sparsity import settings_for_sweep, sweep, with_families

_SQUARES = (256, 1024, 4096)
_SHAPES = (*((size, size) for size in _SQUARES), (768, 3072))
_BATCHES = (1, 16, 128)
# Growth by batch, and by threads, is measured on this layer.
_TYPICAL = (1024, 1024)
_MORE_BATCHES = (4, 64, 512)
# The layer of which the cost of an op by itself is told: its kernel takes about a microsecond.
_SMALL = (256, 256)
_FAMILIES = ("float32", "int8", "int8-balanced")
_ENCODER_LAYERS = 2

OnStep = Callable[[str], None]


@dataclass(frozen=True)
class Part:
    """One part of the run.

    Attributes:
        name: What is measured.
        steps: How often `run` calls its argument; 0 where a process of its own shows its progress.
        run: `on_step -> runs`.
    """

    name: str
    steps: int
    run: Callable[[OnStep], list[Results]]


@dataclass(frozen=True)
class Survey:
    """What to measure.

    Attributes:
        threads: Numbers of threads; the first one is that of all parts, the others' growth is
            measured beside it.
        shapes: (K, N) of the products.
        batches: Rows of x.
        more_batches: Further ones, for the typical layer.
        quick: Whether tiny layers will do, only to see that everything runs.
    """

    threads: Sequence[int]
    shapes: Sequence[tuple[int, int]] = _SHAPES
    batches: Sequence[int] = _BATCHES
    more_batches: Sequence[int] = _MORE_BATCHES
    quick: bool = False

    def parts(self) -> Iterator[Part]:
        """The parts, in order."""
        yield self._products()
        yield self._overheads()
        for threads in self.threads[1:]:
            yield self._fewer_threads(threads)
        yield self._sweep()
        yield self._layers()
        yield self._models()

    def _settings(self, **changes: object) -> Settings:
        settings = Settings(
            threads=self.threads[0],
            cache_bytes=machine.last_level_cache_bytes(),
            modes=("bursts",),
            rounds=9,
            budget_seconds=2.0,
        )
        if self.quick:
            settings = settings.quick()
        return replace(settings, **changes)  # type: ignore[arg-type]

    def _typical(self) -> tuple[int, int]:
        """The layer that growth by batch and threads is measured on."""
        return _TYPICAL if _TYPICAL in self.shapes else self.shapes[0]

    def _products(self) -> Part:
        settings = self._settings(shapes=self.shapes, batches=self.batches, states=("hot",))
        more = replace(settings, shapes=[self._typical()], batches=self.more_batches)
        # Cold chains of one-bit weights are made of 2 GB of float ones: of one layer only.
        cold = replace(more, batches=[min(self.batches)], states=("cold",))
        points = [point for part in (settings, more, cold) for point in part.workloads()]
        workloads = list(dict.fromkeys(points))
        return Part(
            "formats and other engines",
            count_steps(settings, workloads),
            lambda on_step: [
                run_suite(ALL_FORMATS, ALL_FORMATS.cases(), settings, on_step, workloads)
            ],
        )

    def _overheads(self) -> Part:
        shape = self.shapes[0] if self.quick else _SMALL
        settings = self._settings(shapes=[shape], batches=[1], states=("hot",))
        suite = replace(ALL_FORMATS, name="overhead", reference=BASELINE.name)
        cases = suite.cases(peers=False, views=True)
        return Part(
            "what ops add to kernels",
            count_steps(settings),
            lambda on_step: [run_suite(suite, cases, settings, on_step)],
        )

    def _fewer_threads(self, threads: int) -> Part:
        options: dict[str, str | bool | None] = {
            "--shape": "x".join(map(str, self._typical())),
            "--batch": ",".join(map(str, self.batches)),
            "--state": "hot",
            "--mode": "bursts",
            "--seconds": str(self._settings().budget_seconds),
            "--quick": self.quick,
        }
        return Part(
            f"formats, threads: {threads}",
            0,
            lambda _: processes.by_threads(ALL_FORMATS.name, options, [threads]),
        )

    def _sweep(self) -> Part:
        settings = settings_for_sweep(self._settings(), self.quick)
        settings = replace(settings, budget_seconds=self._settings(budget_seconds=6).budget_seconds)
        cases = sweep(SPARSE.chosen_families(_FAMILIES), self.quick)
        dense = [
            case for case in SPARSE.cases([]) if case.name in (BASELINE.name, SPARSE.reference)
        ]

        def run(on_step: OnStep) -> list[Results]:
            found = run_suite(SPARSE, [*cases.values(), *dense], settings, on_step)
            return [with_families(found, cases)]

        return Part("speed by share of zeros", count_steps(settings), run)

    def _layers(self) -> Part:
        settings = LayerSettings(threads=self.threads[0], batches=self.batches[:2])
        if self.quick:
            settings = settings.quick()
        return Part(
            "layers",
            count_layer_steps(settings),
            lambda on_step: [run_layers(settings, on_step)],
        )

    def _models(self) -> Part:
        settings = ModelSettings(
            models=("MobileNetV2", model_suite.ENCODER),
            batches=(1,),
            layers=_ENCODER_LAYERS,
            threads=self.threads[0],
        )
        if self.quick:
            settings = settings.quick()
        return Part(
            model_suite.SUITE,
            len(list(settings.points())),
            lambda on_step: [run_models(settings, on_step)],
        )
