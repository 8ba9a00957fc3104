"""Attention layers whose scores never leave the caches at inference."""

from typing import Any

import keras

from tfcompress_ops import float_ops
from tfcompress_ops.layers.composite import CompositeLayer, splits
from tfcompress_ops.structure import held


class _Attention(CompositeLayer):
    """What the attention layers share; see `MultiHeadAttention`."""

    __slots__ = ()  # mixed into a Keras class without a layout of its own

    def take_weights(self, layer: Any) -> None:
        """Takes over the weights of the projections."""
        _copy_parts(layer, self)

    def give_weights(self, layer: Any) -> None:
        """Gives the weights of the projections."""
        _copy_parts(self, layer)

    def plain_build_config(self) -> Any:
        """The shapes that the layer was built for."""
        this: Any = self
        return keras.layers.Layer.get_build_config(this)

    @classmethod
    def split_refusal(cls, layer: Any) -> str | None:
        """Says no where its parts are not those that its config describes."""
        for part in _parts(layer).values():
            if type(part) not in _PARTS or part.quantization_mode is not None:
                return f"its {part.name} is not as Keras makes it"
            if getattr(part, "lora_enabled", False):
                return f"its {part.name} has LoRA weights"
        return None

    @classmethod
    def from_layer(cls, layer: Any) -> Any:
        """Copies a built layer of the class that this one replaces."""
        new = super().from_layer(layer)
        _freeze_like(layer, new)
        return new

    def to_layer(self) -> Any:
        """The Keras layer with the same weights."""
        layer = super().to_layer()
        _freeze_like(self, layer)
        return layer


_PARTS = (keras.layers.EinsumDense, keras.layers.Softmax, keras.layers.Dropout)


def _parts(layer: Any) -> dict[Any, Any]:
    """The layers inside, by the attributes that hold them."""
    return dict(held(layer))


def _copy_parts(source: Any, target: Any) -> None:
    others = _parts(target)
    for hop, part in _parts(source).items():
        for one, other in zip(part.variables, others[hop].variables, strict=True):
            other.assign(one)


def _freeze_like(source: Any, target: Any) -> None:
    """Parts may be frozen by themselves."""
    others = _parts(target)
    for hop, part in _parts(source).items():
        if others[hop].trainable != part.trainable:
            others[hop].trainable = part.trainable


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
