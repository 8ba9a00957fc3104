"""Writes models of dense layers for LiteRT and for Larq Compute Engine.

The flatbuffers are written directly: a converter would first need a float model of the same size,
and what it writes is this. For LiteRT, one FULLY_CONNECTED a layer: float input and output, int8
weights [N, K] with one scale an output. For Larq Compute Engine, which has no binary dense layer,
an op that packs the signs of the inputs and a 1 x 1 convolution of them, both of its own.
"""

from collections.abc import Sequence
from typing import Any

import flatbuffers
import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema
from flatbuffers import flexbuffers

Array = npt.NDArray[np.float32]
# The first version of FULLY_CONNECTED that allows a scale for each output in this combination.
_FULLY_CONNECTED_VERSION = 9
_TYPES = {
    "float32": schema.TensorType.FLOAT32,
    "int32": schema.TensorType.INT32,
    "int8": schema.TensorType.INT8,
}
_VALID_PADDING = 1
_SIGNS_PER_WORD = 32


def dynamic_range_model(
    layers: Sequence[tuple[npt.NDArray[np.int8], Array, Array]], batch: int
) -> bytes:
    """A LiteRT model with one input and one output a layer; layers are independent of each other.

    Inputs are separate since XNNPACK would quantise a shared input only once.

    Args:
        layers: `(weights int8 [N, K], scale [N], bias [N])` of each layer.
        batch: Rows of every input.

    Returns:
        The model file's bytes.
    """
    model = _Model()
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.FULLY_CONNECTED
    code.version = _FULLY_CONNECTED_VERSION
    opcode = model.add_code(code)
    for weights, scale, bias in layers:
        n, k = weights.shape
        x = model.add_input((batch, k))
        w, b = model.add_constant(weights, scale), model.add_constant(bias)
        y = model.add_output((batch, n))
        operator = model.add_operator(opcode, [x, w, b], [y])
        operator.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
        operator.builtinOptions = schema.FullyConnectedOptionsT()
    return model.to_bytes()


def binary_model(layers: Sequence[tuple[npt.NDArray[np.bool_], Array, Array]], batch: int) -> bytes:
    """A model for Larq Compute Engine with one input and one output a layer.

    Args:
        layers: `(negative [K, N], scale [N], bias [N])` of each layer: which weights are -1, the
            others being +1.
        batch: Rows of every input.

    Returns:
        The model file's bytes.
    """
    model = _Model()
    codes = []
    for name in ("LceQuantize", "LceBconv2d"):
        code = schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
        code.customCode, code.version = name, 1
        codes.append(model.add_code(code))
    for negative, scale, bias in layers:
        k, n = negative.shape
        words = -(-k // _SIGNS_PER_WORD)
        padded = np.pad(negative.T, ((0, 0), (0, words * _SIGNS_PER_WORD - k)))
        packed = np.packbits(np.ascontiguousarray(padded), axis=1, bitorder="little")
        x = model.add_input((batch, 1, 1, k))
        signs = model.add_tensor((batch, 1, 1, words), "int32")
        kernel = model.add_constant(packed.view(np.int32).reshape(n, 1, 1, words))
        factors, shifts = model.add_constant(scale), model.add_constant(bias)
        y = model.add_output((batch, 1, 1, n))
        model.add_operator(codes[0], [x], [signs])
        no_threshold = -1
        convolution = model.add_operator(
            codes[1], [signs, kernel, factors, shifts, no_threshold], [y]
        )
        options = {
            "channels_in": k,
            "groups": 1,
            "stride_height": 1,
            "stride_width": 1,
            "dilation_height_factor": 1,
            "dilation_width_factor": 1,
            "fused_activation_function": 0,
            "pad_values": 0,
            "padding": _VALID_PADDING,
        }
        content = bytes(flexbuffers.Dumps(options))
        convolution.customOptions = np.frombuffer(content, np.uint8)
    return model.to_bytes()


class _Model:
    """A flatbuffer in the making, of one graph."""

    def __init__(self) -> None:
        self._graph = schema.SubGraphT()
        self._graph.name, self._graph.tensors, self._graph.operators = "main", [], []
        self._graph.inputs, self._graph.outputs = [], []
        self._model = schema.ModelT()
        self._model.version, self._model.buffers = 3, [schema.BufferT()]
        self._model.subgraphs, self._model.operatorCodes = [self._graph], []

    def add_code(self, code: Any) -> int:
        """Adds a kind of operator."""
        self._model.operatorCodes.append(code)
        return len(self._model.operatorCodes) - 1

    def add_operator(self, code: int, inputs: list[int], outputs: list[int]) -> Any:
        """Adds an operator, which is given back for its options."""
        operator = schema.OperatorT()
        operator.opcodeIndex, operator.inputs, operator.outputs = code, inputs, outputs
        self._graph.operators.append(operator)
        return operator

    def add_tensor(self, shape: Sequence[int], dtype: str = "float32") -> int:
        """Adds a tensor."""
        tensor = schema.TensorT()
        tensor.name, tensor.shape = f"t{len(self._graph.tensors)}", list(shape)
        tensor.type = _TYPES[dtype]
        self._graph.tensors.append(tensor)
        return len(self._graph.tensors) - 1

    def add_input(self, shape: Sequence[int]) -> int:
        """Adds an input, float32."""
        self._graph.inputs.append(self.add_tensor(shape))
        return int(self._graph.inputs[-1])

    def add_output(self, shape: Sequence[int]) -> int:
        """Adds an output, float32."""
        self._graph.outputs.append(self.add_tensor(shape))
        return int(self._graph.outputs[-1])

    def add_constant(self, values: npt.NDArray[Any], scale: Array | None = None) -> int:
        """Adds a constant, with one scale for each of its first dimension if there are any."""
        index = self.add_tensor(values.shape, values.dtype.name)
        tensor = self._graph.tensors[index]
        buffer = schema.BufferT()
        buffer.data = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
        tensor.buffer = len(self._model.buffers)
        self._model.buffers.append(buffer)
        if scale is not None:
            tensor.quantization = schema.QuantizationParametersT()
            tensor.quantization.scale = scale
            tensor.quantization.zeroPoint = np.zeros(len(scale), np.int64)
            tensor.quantization.quantizedDimension = 0
        return index

    def to_bytes(self) -> bytes:
        """The model file."""
        builder = flatbuffers.Builder(1024)
        builder.Finish(self._model.Pack(builder), b"TFL3")
        return bytes(builder.Output())
