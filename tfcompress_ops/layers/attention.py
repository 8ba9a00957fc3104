"""Attention layers whose scores never leave the caches at inference."""

from typing import Any

import keras

from tfcompress_ops import float_ops
from tfcompress_ops.layers.composite import CompositeLayer, splits


class _Attention(CompositeLayer):
    """What the attention layers share; see `MultiHeadAttention`."""

    __slots__ = ()  # mixed into a Keras class without a layout of its own

    def take_weights(self, layer: Any) -> None:
        """Takes over the weights of the projections."""
        this: Any = self
        for source, target in zip(layer.variables, this.variables, strict=True):
            target.assign(source)

    def give_weights(self, layer: Any) -> None:
        """Gives the weights of the projections."""
        this: Any = self
        for source, target in zip(this.variables, layer.variables, strict=True):
            target.assign(source)

    def plain_build_config(self) -> Any:
        """The shapes that the layer was built for."""
        this: Any = self
        return keras.layers.Layer.get_build_config(this)

    @classmethod
    def split_refusal(cls, layer: Any) -> str | None:
        """Says no to what Keras quantised."""
        modes = {sub.quantization_mode for sub in layer._flatten_layers()} - {None}
        return f"Keras has quantised it to {modes.pop()}; compress it before" if modes else None


def _attend(query: Any, key: Any, value: Any, mask: Any, scale: float, dropout: float) -> Any:
    """Attention in one op, or `None` where it does not serve: the Keras layer has its own way."""
    if len(query.shape) != 4 or not query.dtype == key.dtype == value.dtype:
        return None
    if not float_ops.on_cpu(query, key, value):
        return None
    if mask is not None:
        if keras.backend.standardize_dtype(mask.dtype) != "bool":
            return None
        for _ in range(4 - len(mask.shape)):  # the heads, then the batch
            mask = keras.ops.expand_dims(mask, -3)
    # With dropout Keras takes another path, which differs for queries that may look at no key.
    return float_ops.attention(query, key, value, mask=mask, scale=scale, zero_blind=dropout > 0)


@splits(keras.layers.MultiHeadAttention)
class MultiHeadAttention(_Attention, keras.layers.MultiHeadAttention):  # type: ignore[misc]
    """`keras.layers.MultiHeadAttention` with its projections compressed and its scores in one op.

    The op serves where the scores are not asked for, inputs are sequences (rank 3) and no dropout
    is at work, on a CPU; otherwise the layer runs as Keras' does.
    """

    def _compute_attention(
        self,
        query: Any,
        key: Any,
        value: Any,
        attention_mask: Any = None,
        training: Any = None,
        return_attention_scores: bool = False,
        **kwargs: Any,
    ) -> Any:
        drops = self._dropout > 0 and training
        if not (drops or return_attention_scores or self._flash_attention or kwargs):
            y = _attend(
                query, key, value, attention_mask, self._inverse_sqrt_key_dim, self._dropout
            )
            if y is not None:
                return y, None
        return super()._compute_attention(
            query, key, value, attention_mask, training, return_attention_scores, **kwargs
        )


@splits(keras.layers.GroupQueryAttention)
class GroupedQueryAttention(_Attention, keras.layers.GroupQueryAttention):  # type: ignore[misc]
    """`keras.layers.GroupQueryAttention` in the same way; see `MultiHeadAttention`."""

    def _compute_attention(
        self,
        query: Any,
        key: Any,
        value: Any,
        attention_mask: Any = None,
        training: Any = None,
        **kwargs: Any,
    ) -> Any:
        drops = self.dropout > 0 and training
        if not (drops or self._return_attention_scores or self._flash_attention or kwargs):
            y = _attend(
                query, key, value, attention_mask, self._inverse_sqrt_head_dim, self.dropout
            )
            if y is not None:
                return y, None
        return super()._compute_attention(query, key, value, attention_mask, training, **kwargs)
