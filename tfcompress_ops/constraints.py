"""Constraints on latent weights."""

from typing import Any

import keras

from tfcompress_ops.quantizers import check_clip_value


@keras.saving.register_keras_serializable(package="tfcompress")
class WeightClip(keras.constraints.Constraint):  # type: ignore[misc]
    """Clips weights to -clip_value ... clip_value after every update.

    Latent weights that leave the range in which a straight-through estimator has a gradient would
    never change sign again.

    Args:
        clip_value: Positive number.

    Raises:
        ValueError: If `clip_value` is not positive.

    Example:
        >>> WeightClip()(np.array([-3.0, 0.5], "float32")).numpy()
        array([-1. ,  0.5], dtype=float32)

    References:
        Courbariaux, Bengio, David, "BinaryConnect: Training Deep Neural Networks with binary
        weights during propagations", 2015, section 2.4.
    """

    def __init__(self, clip_value: float = 1.0) -> None:
        self.clip_value = check_clip_value(clip_value)

    def __call__(self, w: Any) -> Any:
        """Clips.

        Args:
            w: Floating-point tensor.

        Returns:
            Tensor of the same shape and dtype.
        """
        return keras.ops.clip(w, -self.clip_value, self.clip_value)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"clip_value": self.clip_value}
