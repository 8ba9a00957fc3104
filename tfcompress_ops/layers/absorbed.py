"""What is left of a layer whose work another layer does."""

from typing import Any

import keras


@keras.saving.register_keras_serializable(package="tfcompress")
class Absorbed(keras.layers.Layer):  # type: ignore[misc]
    """Passes its inputs on, in place of a layer that was folded into the one before.

    A BatchNormalization is folded into weights, an activation is done by the op that multiplies.
    The layer keeps the name and the place, so that a model has the layers that it had.

    Input shape:
        Any.

    Output shape:
        The input shape.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True
        self._build_at_init()

    def call(self, inputs: Any, training: Any = None, mask: Any = None) -> Any:
        """The inputs; `training` and `mask` are what the layer that was here takes."""
        del training, mask
        return inputs

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return dict(super().get_config())

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The input shape."""
        return input_shape
