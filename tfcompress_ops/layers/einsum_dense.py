"""The fully connected layer over any axes, on packed weights."""

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tfcompress_ops.layers.kernel_layer import KernelLayer
from tfcompress_ops.layers.layer import replaces


@dataclasses.dataclass(frozen=True)
class _Equation:
    """An einsum of inputs and kernel that is one matrix product: labels of each operand's axes."""

    inputs: str
    kernel: str
    outputs: str

    @classmethod
    def parse(cls, equation: str) -> "_Equation":
        """Splits `"abc,cd->abd"`; `...` stands for further axes of inputs and outputs.

        Raises:
            ValueError: If the equation is not one matrix product.
        """
        operands = re.fullmatch(
            r"([A-Za-z.]+),([A-Za-z]+)->([A-Za-z.]+)", equation.replace(" ", "")
        )
        if operands is None:
            raise ValueError(
                f"`equation` must be like 'ab,bc->ac' or '...ab,bc->...ac'; received {equation!r}."
            )
        # One character for the axes that `...` stands for.
        inputs, kernel, outputs = (part.replace("...", ".") for part in operands.groups())
        found = cls(inputs, kernel, outputs)
        single = all(len(set(part)) == len(part) for part in (inputs, kernel, outputs))
        ours = set(found.contracted) | set(found.free)
        if not single or ours != set(kernel) or set(found.rest) | set(found.free) != set(outputs):
            raise ValueError(
                "`equation` must be one matrix product: each axis of the kernel either summed over "
                f"or new in the outputs, all other axes kept; received {equation!r}."
            )
        return found

    @property
    def contracted(self) -> str:
        """Axes that are summed over, in the kernel's order."""
        return "".join(x for x in self.kernel if x in self.inputs and x not in self.outputs)

    @property
    def free(self) -> str:
        """Axes that are the kernel's alone, in the kernel's order."""
        return "".join(x for x in self.kernel if x in self.outputs and x not in self.inputs)

    @property
    def rest(self) -> str:
        """Axes that inputs and outputs share, in the inputs' order."""
        return "".join(x for x in self.inputs if x not in self.kernel)

    def expand(self, labels: str, rank: int) -> list[str]:
        """Labels of each axis, where the inputs have this rank."""
        extra = rank - len(self.inputs) + 1
        return [
            name
            for label in labels
            for name in ([f".{i}" for i in range(extra)] if label == "." else [label])
        ]


@replaces(keras.layers.EinsumDense)
class EinsumDense(KernelLayer):
    """`keras.layers.EinsumDense` whose kernel stays in a compressed format.

    `output = activation(einsum(equation, inputs, kernel) + bias)`, for equations that are one
    matrix product, as those of `keras.layers.MultiHeadAttention` are. Axes are only moved where the
    equation does not end the inputs with what is summed over, in the kernel's order.

    Args:
        equation: As `keras.layers.EinsumDense` takes it. Each axis of the kernel is either summed
            over or new in the outputs.
        output_shape: Shape of the outputs without the batch axis; `None` where it is the inputs'.
        activation: Anything that `keras.activations.get` accepts.
        bias_axes: Output axes that the bias has, or `None`: no bias.
        format: A `Format` such as `tfc.Int8()`, or the name of one.
        **kwargs: Arguments of `KernelLayer`.

    Input shape:
        As the equation says.

    Output shape:
        As the equation says.

    Raises:
        ValueError: If the equation is not one matrix product.

    Example:
        >>> layer = EinsumDense("abc,cde->abde", (None, 2, 4), bias_axes="de", format="int8")
        >>> layer(np.ones((1, 3, 8), "float32")).shape
        TensorShape([1, 3, 2, 4])
    """

    own_arguments = ("equation", "output_shape", "bias_axes")

    def __init__(
        self,
        equation: str,
        output_shape: int | Sequence[int | None],
        activation: Any = None,
        bias_axes: str | None = None,
        format: Any = "int8",
        **kwargs: Any,
    ) -> None:
        super().__init__(format=format, activation=activation, **kwargs)
        self.equation = equation
        self._equation = _Equation.parse(equation)
        shape = (output_shape,) if isinstance(output_shape, int) else tuple(output_shape)
        self.partial_output_shape = shape
        self.bias_axes = bias_axes
        unknown = set(bias_axes or "") - set(self._equation.outputs)
        if unknown:
            raise ValueError(
                f"`bias_axes` must be axes of the outputs of {equation!r}; received {bias_axes!r}."
            )

    @classmethod
    def refusal(cls, layer: keras.layers.EinsumDense) -> str | None:
        """Says no to equations that are not one matrix product, and to what Keras quantised."""
        try:
            _Equation.parse(layer.equation)
        except ValueError:
            return f"its equation {layer.equation!r} is not one matrix product"
        return super().refusal(layer)

    @classmethod
    def arguments(cls, layer: keras.layers.Layer) -> dict[str, Any]:
        """Constructor arguments of an `EinsumDense` of either kind."""
        names = cls.own_arguments
        found = super().arguments(_WithOutputShape(layer, names))
        return {**found, "output_shape": layer.partial_output_shape}

    @property
    def output_shape(self) -> tuple[int | None, ...]:
        """The constructor's argument."""
        return self.partial_output_shape

    @classmethod
    def to_matrix(cls, layer: Any, kernel: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Brings what is summed over to the front."""
        equation = _Equation.parse(layer.equation)
        order = [equation.kernel.index(x) for x in equation.contracted + equation.free]
        moved = np.transpose(kernel, order)
        rows = math.prod(moved.shape[: len(equation.contracted)])
        return np.reshape(moved, (rows, kernel.size // max(rows, 1)))

    @classmethod
    def from_matrix(
        cls, layer: Any, matrix: npt.NDArray[Any], shape: tuple[int, ...]
    ) -> npt.NDArray[Any]:
        """The inverse of `to_matrix`."""
        equation = _Equation.parse(layer.equation)
        order = [equation.kernel.index(x) for x in equation.contracted + equation.free]
        moved = matrix.reshape([shape[axis] for axis in order])
        return np.transpose(moved, np.argsort(order))

    def _sizes(self, input_shape: Any) -> dict[str, int | None]:
        """Size of each axis by its label."""
        equation, rank = self._equation, len(input_shape)
        outputs = equation.expand(equation.outputs, rank)
        given = dict(zip(reversed(outputs), reversed(self.partial_output_shape), strict=False))
        return {
            **given,
            **dict(zip(equation.expand(equation.inputs, rank), input_shape, strict=True)),
        }

    def kernel_shape(self, input_shape: Any) -> tuple[int, ...]:
        """Sizes of the kernel's axes.

        Raises:
            ValueError: If one is not known.
        """
        sizes = self._sizes(input_shape)
        shape = tuple(sizes[label] for label in self._equation.kernel)
        if None in shape:
            raise ValueError(
                f"`input_shape` must have the size of every axis that {self.equation!r} sums over "
                f"for layer {self.name!r}; received {input_shape}."
            )
        return shape  # type: ignore[return-value]

    def matrix_shape(self, input_shape: Any) -> tuple[int, int]:
        """Product of the sizes that are summed over, and of those that are new."""
        sizes = dict(zip(self._equation.kernel, self.kernel_shape(input_shape), strict=True))
        rows = math.prod(sizes[label] for label in self._equation.contracted)
        return rows, math.prod(sizes[label] for label in self._equation.free)

    def bias_shape(self, input_shape: Any) -> tuple[int, ...] | None:
        """The output axes from the first of `bias_axes` on; 1 for those that are not among them."""
        if not self.bias_axes:
            return None
        sizes, labels = self._sizes(input_shape), self._bias_labels()
        return tuple(sizes[x] if x in self.bias_axes else 1 for x in labels)  # type: ignore[misc]

    def _bias_labels(self) -> str:
        outputs = self._equation.outputs
        return outputs[min(outputs.index(label) for label in self.bias_axes or outputs[-1]) :]

    def call(self, inputs: Any, training: Any = None) -> Any:
        """Multiplies, adds the bias and applies the activation.

        Args:
            inputs: Tensor of the equation's input axes.
            training: Not used.

        Returns:
            Tensor of the equation's output axes.
        """
        del training
        equation, rank = self._equation, len(inputs.shape)
        x = keras.ops.cast(inputs, self.compute_dtype)
        labels = equation.expand(equation.inputs, rank)
        rest = equation.expand(equation.rest, rank)
        x = _moved(x, labels, [*rest, *equation.contracted])
        # Shape inference also goes through symbolic tensors, which keras.ops knows.
        lead = keras.ops.shape(x)[: len(rest)]
        in_features = self.matrix_shape(self._input_shape)[0]
        if len(equation.contracted) != 1:
            x = keras.ops.reshape(x, (*lead, in_features))
        fused = set(self.bias_axes or "") <= set(equation.free)
        y = self.format.matmul(
            x,
            self._packed,
            bias=self._flat_bias() if fused else None,
            activation=self.activation if fused else None,
        )
        if len(equation.free) != 1:
            sizes = dict(zip(equation.kernel, self.kernel_shape(self._input_shape), strict=True))
            y = keras.ops.reshape(y, (*lead, *(sizes[label] for label in equation.free)))
        y = _moved(y, [*rest, *equation.free], equation.expand(equation.outputs, rank))
        if fused:
            return y
        return self.activation(y + keras.ops.cast(self.bias, y.dtype))

    def _flat_bias(self) -> Any:
        """The bias of each column of the matrix."""
        if self.bias is None:
            return None
        free = self._equation.free
        sizes = dict(zip(self._equation.kernel, self.kernel_shape(self._input_shape), strict=True))
        labels = [label for label in self._bias_labels() if label in free]
        labels = [
            label for label in self._equation.outputs if label in free and label not in labels
        ] + labels
        shape = [sizes[label] if label in (self.bias_axes or "") else 1 for label in labels]
        bias = tf.reshape(tf.convert_to_tensor(self.bias), shape)
        bias = tf.transpose(bias, [labels.index(label) for label in free])
        return tf.reshape(tf.broadcast_to(bias, [sizes[label] for label in free]), [-1])

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """Sizes of the output axes."""
        sizes = self._sizes(input_shape)
        return tuple(
            sizes[x] for x in self._equation.expand(self._equation.outputs, len(input_shape))
        )


class _WithOutputShape:
    """A layer whose `output_shape` is the argument of that name."""

    def __init__(self, layer: Any, names: Sequence[str]) -> None:
        self._layer = layer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._layer, "partial_output_shape" if name == "output_shape" else name)


def _moved(x: Any, labels: Sequence[str], wanted: Sequence[str]) -> Any:
    if list(labels) == list(wanted):
        return x
    return keras.ops.transpose(x, [list(labels).index(label) for label in wanted])
