"""Whole models as a suite: `tfcompress bench models`. What is measured, `models` says."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace

import keras

from tfcompress_ops.bench import machine
from tfcompress_ops.bench.cases import CaseFacts
from tfcompress_ops.bench.chains import set_tensorflow_threads
from tfcompress_ops.bench.models import FORMS, MODELS, measure
from tfcompress_ops.bench.results import Measurement, Results
from tfcompress_ops.bench.runner import Settings
from tfcompress_ops.bench.timing import Timing

SUITE = "models"
BASELINE, REFERENCE = "tf.function", "XLA"
# Of the models that whose size is its layers, and of the forms that which is searched for.
ENCODER, AUTO = "encoder", "auto"


@dataclass(frozen=True)
class ModelSettings:
    """What to measure of models, and how long.

    Attributes:
        models: Out of `MODELS`.
        forms: Out of `FORMS`.
        batches: Rows of the inputs; empty: each model's own.
        size: Height and width of images.
        layers: Layers of the encoder.
        threads: Threads of TensorFlow.
        seconds: Time that each form is run for.
        search: Whether `"auto"` is measured too.
    """

    models: Sequence[str] = tuple(MODELS)
    forms: Sequence[str] = tuple(FORMS)
    batches: Sequence[int] = ()
    size: int = 224
    layers: int = 12
    threads: int = 1
    seconds: float = 3.0
    search: bool = False

    def __post_init__(self) -> None:
        for option, chosen, known in (
            ("--models", self.models, MODELS),
            ("--forms", self.forms, FORMS),
        ):
            for name in chosen:
                if name not in known:
                    raise ValueError(
                        f"`{option}` must be one of {', '.join(known)}; received {name}."
                    )

    def quick(self) -> "ModelSettings":
        """The same in seconds, to see that everything runs. Its numbers mean nothing."""
        return replace(
            self, models=(ENCODER,), forms=("int8",), batches=(1,), size=32, layers=1, seconds=0.01
        )

    def points(self) -> Iterator[tuple[str, int]]:
        """Each model and batch, in order."""
        for name in self.models:
            for batch in self.batches or MODELS[name][1]:
                yield name, batch

    def subject(self, name: str, model: keras.Model) -> str:
        """The model and its sizes, for tables."""
        shape = " x ".join(map(str, model.inputs[0].shape[1:]))
        layers = f" of {self.layers} layers" if name == ENCODER else ""
        return f"{name}{layers}, {shape}"

    def build(self, name: str) -> keras.Model:
        """The model of this name, its weights drawn anew but always the same."""
        keras.utils.set_random_seed(0)
        make = MODELS[name][0]
        if name == ENCODER:
            return make(layers=self.layers)
        return make(size=self.size)


def run_models(settings: ModelSettings, on_step: Callable[[str], None] | None = None) -> Results:
    """Measures models.

    Args:
        settings: What to measure.
        on_step: Called with a description before each step; there are as many as
            `settings.points()` has.

    Returns:
        The results; the plain model through `tf.function` is the baseline.

    Raises:
        RuntimeError: If TensorFlow runs already with another number of threads.
    """
    set_tensorflow_threads(settings.threads)
    tell = on_step or (lambda _: None)
    other_load = machine.OtherLoad()
    measurements: list[Measurement] = []
    for name, batch in settings.points():
        tell(f"{name}, batch {batch}")
        model = settings.build(name)
        rows = measure(model, batch, settings.forms, settings.seconds, settings.search)
        measurements += [
            Measurement(
                subject=settings.subject(name, model),
                case=row["form"],
                arithmetic="float32",
                batch=batch,
                state=Settings.states[0],
                mode=Settings.modes[0],
                layer=Timing.from_samples(row["samples"], row["burst"]),
                layers=1,
                distinct=1,
                weight_bytes=row["bytes"],
                # The call is part of what a model costs.
                call_overhead_us=0.0,
                error=row["error"],
            )
            for row in rows
        ]
    groups = {name: format_.name for name, (format_, _) in FORMS.items()}
    return Results(
        suite=SUITE,
        baseline=BASELINE,
        reference=REFERENCE,
        measurements=measurements,
        cases={
            case: CaseFacts(group=groups.get(case, "auto" if case == AUTO else ""))
            for case in dict.fromkeys(measurement.case for measurement in measurements)
        },
        machine=machine.of_run(other_load),
        versions=machine.versions(),
        settings=asdict(settings),
    )
