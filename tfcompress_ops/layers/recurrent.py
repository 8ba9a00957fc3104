"""Recurrent cells whose input and recurrent kernels are layers of their own.

`keras.layers.LSTM`, `GRU` and `SimpleRNN` hold a cell each; `keras.layers.RNN`, `Bidirectional` and
`StackedRNNCells` hold those. `tfc.compress` replaces the cell in them.

A layer that holds such a cell multiplies its inputs by the input kernel before it loops over time:
one product `[batch * time, in_features] @ [in_features, gates * units]` takes the place of one of
`[batch, in_features]` a step. Only the recurrent product is left in the loop. The products of all
steps are in memory at once.
"""

import types
from typing import Any

import keras
import numpy as np
from keras.src import backend

from tfcompress_ops.layers.composite import CompositeLayer, splits


class _Cell(CompositeLayer):
    """A cell with two fully connected layers, `kernel` and `recurrent_kernel`, and no others."""

    __slots__ = ()  # mixed into a Keras class without a layout of its own

    gates: int
    dropout: float
    input_projection: Any
    recurrent_projection: Any

    @classmethod
    def split_refusal(cls, layer: Any) -> str | None:
        """Nothing is refused."""
        return None

    def build(self, input_shape: Any) -> None:
        """Makes the fully connected layers."""
        this: Any = self
        this.split_input_shape = tuple(input_shape)
        this.input_projection = self._projection(
            "kernel", this.kernel_initializer, this.kernel_regularizer, this.kernel_constraint
        )
        this.recurrent_projection = self._projection(
            "recurrent_kernel",
            this.recurrent_initializer,
            this.recurrent_regularizer,
            this.recurrent_constraint,
        )
        self.input_projection.build((None, input_shape[-1]))
        self.recurrent_projection.build((None, this.units))

    def _projection(
        self, name: str, initializer: Any, regularizer: Any, constraint: Any
    ) -> keras.layers.Dense:
        this: Any = self
        return keras.layers.Dense(
            self.gates * this.units,
            use_bias=self._has_bias(name),
            kernel_initializer=initializer,
            kernel_regularizer=regularizer,
            kernel_constraint=constraint,
            bias_initializer=this.bias_initializer,
            bias_regularizer=this.bias_regularizer,
            bias_constraint=this.bias_constraint,
            dtype=this.dtype_policy,
            name=name,
        )

    def _has_bias(self, name: str) -> bool:
        this: Any = self
        return bool(this.use_bias) and name == "kernel"

    # Keras' LSTM and GRU ask for them where a GPU could run the whole loop.
    @property
    def kernel(self) -> Any:
        """Not there: Keras then runs the cell step by step."""
        raise NotImplementedError("The kernel of this cell is a layer: `input_projection`.")

    def take_weights(self, layer: Any) -> None:
        """Takes over kernels and biases."""
        self.input_projection.kernel.assign(layer.kernel)
        self.recurrent_projection.kernel.assign(layer.recurrent_kernel)
        if layer.use_bias:
            self._take_bias(layer.bias)

    def _take_bias(self, bias: Any) -> None:
        self.input_projection.bias.assign(bias)

    def give_weights(self, layer: Any) -> None:
        """Gives kernels and biases."""
        layer.kernel.assign(self.input_projection.kernel)
        layer.recurrent_kernel.assign(self.recurrent_projection.kernel)
        if layer.use_bias:
            layer.bias.assign(self._given_bias())

    def _given_bias(self) -> Any:
        return self.input_projection.bias

    def held_by(self, holder: keras.layers.Layer) -> None:
        """Makes a `keras.layers.RNN` multiply all inputs before its loop."""
        if isinstance(holder, keras.layers.RNN):
            # What Keras calls; of the instance, since the class must stay what files name.
            object.__setattr__(holder, "inner_loop", types.MethodType(_inner_loop, holder))

    def call(self, inputs: Any, states: Any, training: bool = False) -> tuple[Any, Any]:
        """One step; see the Keras layer of the same name."""
        this: Any = self
        if training and 0 < this.dropout < 1:
            inputs = inputs * _single(this.get_dropout_mask(inputs))
        return self.step(self.input_projection(inputs), states, training)

    def step(self, x: Any, states: Any, training: bool) -> tuple[Any, Any]:
        """One step from `x = inputs @ kernel + bias`; outputs and states as `call` gives them."""
        raise NotImplementedError

    def _recur(self, state: Any, training: bool) -> Any:
        """`state @ recurrent_kernel`, after dropout in training."""
        this: Any = self
        if training and 0 < this.recurrent_dropout < 1:
            state = state * _single(this.get_recurrent_dropout_mask(state))
        return self.recurrent_projection(state)


def _inner_loop(
    self: Any, sequences: Any, initial_state: Any, mask: Any, training: bool = False
) -> Any:
    """`keras.layers.RNN.inner_loop` with the input kernel ahead of it."""
    cell = self.cell
    if not isinstance(cell, _Cell) or (training and 0 < cell.dropout < 1):
        return type(self).inner_loop(self, sequences, initial_state, mask, training)

    def step(x: Any, states: Any) -> tuple[Any, Any]:
        output, new_states = cell.step(x, states, training)
        return output, new_states if keras.tree.is_nested(new_states) else [new_states]

    return backend.rnn(
        step,
        cell.input_projection(sequences),
        initial_state if keras.tree.is_nested(initial_state) else [initial_state],
        go_backwards=self.go_backwards,
        mask=mask[0] if isinstance(mask, list | tuple) else mask,
        unroll=self.unroll,
        input_length=sequences.shape[1],
        zero_output_for_mask=self.zero_output_for_mask,
        return_all_outputs=self.return_sequences,
    )


def _single(mask: Any) -> Any:
    """One mask for all gates, where Keras has drawn one for each."""
    return mask[0] if isinstance(mask, list | tuple) else mask


@splits(keras.layers.LSTMCell)
class LSTMCell(_Cell, keras.layers.LSTMCell):  # type: ignore[misc]
    """`keras.layers.LSTMCell` in two fully connected layers; see `CompositeLayer`."""

    gates = 4

    def build(self, input_shape: Any) -> None:
        """Makes the fully connected layers; the bias of the forget gate starts from 1."""
        _Cell.build(self, input_shape)
        if self.use_bias and self.unit_forget_bias:
            bias = self.input_projection.bias.numpy().copy()
            bias[self.units : 2 * self.units] = 1
            self.input_projection.bias.assign(bias)

    def step(self, x: Any, states: Any, training: bool) -> tuple[Any, Any]:
        """One step from `x`."""
        z = keras.ops.split(x + self._recur(states[0], training), 4, axis=1)
        c, o = self._compute_carry_and_output_fused(z, states[1])
        h = o * self.activation(c)
        return h, [h, c]


@splits(keras.layers.GRUCell)
class GRUCell(_Cell, keras.layers.GRUCell):  # type: ignore[misc]
    """`keras.layers.GRUCell` in two fully connected layers; see `CompositeLayer`."""

    gates = 3

    @classmethod
    def split_refusal(cls, layer: Any) -> str | None:
        """Says no to `reset_after=False`, which multiplies by a part of the kernel at a time."""
        return (
            None if layer.reset_after else "its reset_after is False, which takes its kernel apart"
        )

    def _has_bias(self, name: str) -> bool:
        return bool(self.use_bias)

    def _take_bias(self, bias: Any) -> None:
        self.input_projection.bias.assign(bias[0])
        self.recurrent_projection.bias.assign(bias[1])

    def _given_bias(self) -> Any:
        projections = (self.input_projection, self.recurrent_projection)
        return np.stack([projection.bias.numpy() for projection in projections])

    def step(self, x: Any, states: Any, training: bool) -> tuple[Any, Any]:
        """One step from `x`."""
        nested = isinstance(states, list | tuple)
        h = states[0] if nested else states
        inner = self._recur(h, training)
        x_z, x_r, x_h = keras.ops.split(x, 3, axis=-1)
        inner_z, inner_r, inner_h = keras.ops.split(inner, 3, axis=-1)
        z = self.recurrent_activation(x_z + inner_z)
        r = self.recurrent_activation(x_r + inner_r)
        h = z * h + (1 - z) * self.activation(x_h + r * inner_h)
        return h, [h] if nested else h


@splits(keras.layers.SimpleRNNCell)
class SimpleRNNCell(_Cell, keras.layers.SimpleRNNCell):  # type: ignore[misc]
    """`keras.layers.SimpleRNNCell` in two fully connected layers; see `CompositeLayer`."""

    gates = 1

    def step(self, x: Any, states: Any, training: bool) -> tuple[Any, Any]:
        """One step from `x`."""
        nested = isinstance(states, list | tuple)
        h = self._recur(states[0] if nested else states, training)
        output = x + h if self.activation is None else self.activation(x + h)
        return output, [output] if nested else output
