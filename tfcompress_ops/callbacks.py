"""What is done to a model while it trains."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfcompress_ops.compression import matching
from tfcompress_ops.methods import Distiller, pruning
from tfcompress_ops.methods.pruning import float_kernel, refusal
from tfcompress_ops.patterns import BALANCED, keep_masks
from tfcompress_ops.schedules import Schedule
from tfcompress_ops.structure import layer_paths


class Pruning(keras.callbacks.Callback):  # type: ignore[misc]
    """Prunes a model while it is trained, or holds the zeros that it has.

    Without a schedule: when training begins, the weights that are exactly zero are noted, in the
    kernels of all layers that `tfc.compress` can compress, however deep in the model. After every
    batch they are set to zero again, whatever the optimizer, its momentum or a constraint has made
    of them. The other weights are trained as ever. A kernel of zeros alone stays so; one without
    zeros is not touched.

    With a schedule, the smallest weights of the moment become zero at the steps that it names, as
    many as it asks for, and are held from then on. Steps are counted by the optimizer, and a zero
    weight is all there is to know of a mask: training that is resumed from a checkpoint of model
    and optimizer goes on as if it had not stopped. Nothing is added to the model, and so nothing
    has to be stripped from it at the end. Works inside `tf.distribute` strategies.

    Of a `tfc.Distiller` the student is pruned; patterns are over the student's layer paths.

    With `steps_per_execution` in `compile`, zeros are set after every execution.

    Args:
        schedule: A `tfc.schedules.Schedule`; a mapping from glob patterns over layer paths (see
            `tfc.compress`) to one, or to `None`, which leaves layers as they are: the first pattern
            that matches wins; or `None`.
        pattern: `None` or `"balanced"`; see `tfc.prune`. N:M patterns, whose sparsity is fixed,
            are pruned before: `tfc.prune(model, pattern="2:4")`.
        block: Inputs and outputs of the blocks that go as a whole; see `tfc.prune`.
        scope: `"layer"`: each kernel has the schedule's sparsity. `"global"`: all of them together
            have it, by one ranking of their weights.

    Raises:
        TypeError: If `schedule` is none.
        ValueError: If options are out of range or exclude each other. When training begins, if
            there is no schedule and no kernel has a zero, if a schedule reaches no layer, or if a
            pattern matches no layer.

    Example:
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        >>> model.compile("adam", "mse")
        >>> schedule = tfc.schedules.Polynomial(0.0, 0.75, begin_step=0, end_step=4, frequency=1)
        >>> history = model.fit(
        ...     np.ones((16, 8)),
        ...     np.ones((16, 4)),
        ...     batch_size=4,
        ...     verbose=0,
        ...     callbacks=[tfc.callbacks.Pruning(schedule)],
        ... )
        >>> int(np.count_nonzero(model.layers[0].kernel))
        8

    References:
        Zhu and Gupta, "To prune, or not to prune: exploring the efficacy of pruning for model
        compression", 2017, section 3.
    """

    def __init__(
        self,
        schedule: Schedule | Mapping[str, Schedule | None] | None = None,
        *,
        pattern: str | None = None,
        block: Sequence[int] = (1, 1),
        scope: str = "layer",
    ) -> None:
        super().__init__()
        self._schedules = _as_schedules(schedule)
        self._options = {"pattern": pattern, "block": tuple(block)}
        self._scope = scope
        if schedule is None:
            if pattern is not None or tuple(block) != (1, 1) or scope != "layer":
                raise ValueError(
                    "`pattern`, `block` and `scope` go with a `schedule`; received none. Without "
                    "one, the zeros that the model has are held."
                )
        else:
            if pattern not in (None, BALANCED):
                raise ValueError(
                    f"`pattern` must be None or 'balanced' with a schedule; received {pattern!r}. "
                    "The sparsity of N:M is fixed: use tfc.prune, then tfc.callbacks.Pruning()."
                )
            pruning.check_options(0.0, None, pattern, block, scope)
        if scope == "global" and isinstance(schedule, Mapping):
            raise ValueError(
                "`schedule` must be one schedule with scope='global', which ranks all weights "
                f"together; received a mapping of {len(schedule)} patterns."
            )
        self._hold: Callable[[], Any] | None = None
        self._groups: list[tuple[Schedule, list[tuple[Any, Any]]]] = []
        self._step = 0

    def on_train_begin(self, logs: Any = None) -> None:
        """Notes which weights are zero."""
        self._step = self._iterations()
        held = self._scheduled() if self._schedules else self._zeros()
        self._hold = _holder(held)
        # A schedule that should have begun catches up. Where training is resumed, it finds as many
        # zeros as it asks for.
        self._prune(-1, self._step)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Sets them to zero, and more where the schedule says so."""
        if self._hold is not None:
            self._hold()
            step = self._iterations()
            self._prune(self._step, step)
            self._step = step

    def on_train_end(self, logs: Any = None) -> None:
        """Sets them to zero for the last time: an optimizer's averages may come after a batch."""
        if self._hold is not None:
            self._hold()
        self._hold = None
        self._groups = []

    @property
    def _pruned(self) -> keras.Model:
        """The model whose weights go."""
        return self.model.student if isinstance(self.model, Distiller) else self.model

    def _iterations(self) -> int:
        return int(tf.convert_to_tensor(self.model.optimizer.iterations.value))

    def _zeros(self) -> list[tuple[Any, Any]]:
        """Kernels that have zeros, and their masks."""
        model = self._pruned
        layers = model._flatten_layers(include_self=False)
        kernels = [float_kernel(layer).value for layer in layers if refusal(layer) is None]
        masks = [tf.not_equal(kernel, 0) for kernel in kernels]
        held = [
            (kernel, mask)
            for kernel, mask in zip(kernels, masks, strict=True)
            if not bool(tf.reduce_all(mask))
        ]
        if not held:
            raise ValueError(
                f"`model` must have weights that are zero; received {model.name!r}, which has "
                "none in the layers that can be compressed. Prune it first, with tfc.prune, or "
                "give a schedule."
            )
        return held

    def _scheduled(self) -> list[tuple[Any, Any]]:
        """Kernels with variables for their masks, also kept by schedule in `_groups`."""
        chosen = _choose(self._pruned, self._schedules)
        self._groups = []
        for layer, schedule in chosen.items():
            kernel = float_kernel(layer).value
            began = self._step > schedule.begin_step
            mask = tf.Variable(
                tf.not_equal(kernel, 0) if began else tf.ones(kernel.shape, tf.bool),
                trainable=False,
            )
            if self._scope == "layer" or not self._groups:
                self._groups.append((schedule, []))
            self._groups[-1][1].append((layer, mask))
        return [
            (float_kernel(layer).value, mask) for _, group in self._groups for layer, mask in group
        ]

    def _prune(self, previous: int, step: int) -> None:
        """Makes more weights zero in every group whose schedule has changed."""
        changed = False
        for schedule, group in self._groups:
            last = schedule.last_change(step)
            if last is None or last <= previous:
                continue
            kept = keep_masks(
                [pruning.matrix_of(layer) for layer, _ in group],
                sparsity=schedule(last),
                **self._options,  # type: ignore[arg-type]
            )
            for (_, mask), keep in zip(group, kept, strict=True):
                mask.assign(np.reshape(keep, mask.shape))
            changed = True
        if changed and self._hold is not None:
            self._hold()


def _as_schedules(schedule: Any) -> dict[str, Schedule | None]:
    """Patterns to schedules, `{}` for none."""
    if schedule is None:
        return {}
    patterns = dict(schedule) if isinstance(schedule, Mapping) else {"*": schedule}
    for value in patterns.values():
        if value is not None and not isinstance(value, Schedule):
            raise TypeError(
                "`schedule` must be a Schedule such as tfc.schedules.Polynomial, None, or a "
                f"mapping of patterns to these; received {value!r}."
            )
    return patterns


def _choose(
    model: keras.Model, patterns: Mapping[str, Schedule | None]
) -> dict[keras.layers.Layer, Schedule]:
    """Which layers are pruned, and by what schedule."""
    if isinstance(model, (keras.Sequential, keras.src.models.functional.Functional)):
        paths = layer_paths(model)
    else:
        layers = model._flatten_layers(include_self=False)
        paths = {layer.path: layer for layer in layers if layer.path is not None}
    chosen: dict[keras.layers.Layer, Schedule | None] = {}
    for pattern, schedule in patterns.items():
        for path in matching(pattern, paths, "schedule"):
            if refusal(paths[path]) is None:
                chosen.setdefault(paths[path], schedule)
    scheduled = {layer: schedule for layer, schedule in chosen.items() if schedule is not None}
    if not scheduled:
        raise ValueError(
            f"`schedule` must reach a layer that can be pruned; received {model.name!r}, in which "
            "it reaches none."
        )
    return scheduled


def _holder(held: Sequence[tuple[Any, Any]]) -> Callable[[], Any]:
    """A graph that sets every kernel to zero where its mask is False."""

    @tf.function(autograph=False, jit_compile=False)  # type: ignore[untyped-decorator]
    def hold() -> None:
        for kernel, mask in held:
            # Not a product: a weight that has become infinite or NaN is zero again, too.
            kernel.assign(tf.where(mask, kernel, tf.zeros((), kernel.dtype)))

    function: Callable[[], Any] = hold
    return function
