"""What is done to a model while it trains."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfcompress_ops.methods.pruning import float_kernel, refusal


class Pruning(keras.callbacks.Callback):  # type: ignore[misc]
    """Holds the zeros of a pruned model while it is trained on.

    When training begins, the weights that are exactly zero are noted, in the kernels of all layers
    that `tfc.compress` can compress, however deep in the model. After every batch they are set to
    zero again, whatever the optimizer, its momentum or a constraint has made of them. The other
    weights are trained as ever. A kernel of zeros alone stays so; one without zeros is not touched.

    With `steps_per_execution` in `compile`, the zeros are held after every execution, and within
    one they move.

    Raises:
        ValueError: When training begins, if no kernel has a zero.

    Example:
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        >>> pruned = tfc.prune(model, sparsity=0.75)
        >>> pruned.compile("adam", "mse")
        >>> history = pruned.fit(
        ...     np.ones((16, 8)), np.ones((16, 4)), verbose=0, callbacks=[tfc.callbacks.Pruning()]
        ... )
        >>> int(np.count_nonzero(pruned.layers[0].kernel))
        8
    """

    def __init__(self) -> None:
        super().__init__()
        self._hold: Callable[[], Any] | None = None

    def on_train_begin(self, logs: Any = None) -> None:
        """Notes which weights are zero."""
        layers = self.model._flatten_layers(include_self=False)
        kernels = [float_kernel(layer).value for layer in layers if refusal(layer) is None]
        masks = [tf.not_equal(kernel, 0) for kernel in kernels]
        held = [
            (kernel, mask)
            for kernel, mask in zip(kernels, masks, strict=True)
            if not bool(tf.reduce_all(mask))
        ]
        if not held:
            raise ValueError(
                f"`model` must have weights that are zero; received {self.model.name!r}, which has "
                "none in the layers that can be compressed. Prune it first, with tfc.prune."
            )
        self._hold = _holder(held)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Sets them to zero."""
        if self._hold is not None:
            self._hold()

    def on_train_end(self, logs: Any = None) -> None:
        """Sets them to zero for the last time: an optimizer's averages may come after a batch."""
        if self._hold is not None:
            self._hold()
        self._hold = None


def _holder(held: Sequence[tuple[Any, Any]]) -> Callable[[], Any]:
    """A graph that sets every kernel to zero where its mask is False."""

    @tf.function(autograph=False, jit_compile=False)  # type: ignore[untyped-decorator]
    def hold() -> None:
        for kernel, mask in held:
            # Not a product: a weight that has become infinite or NaN is zero again, too.
            kernel.assign(tf.where(mask, kernel, tf.zeros((), kernel.dtype)))

    function: Callable[[], Any] = hold
    return function
