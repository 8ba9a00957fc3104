"""Writes LiteRT models of dense layers with dynamic-range int8 weights.

The flatbuffer is written directly: a converter would first need a float model of the same size,
and what it writes is this: one FULLY_CONNECTED a layer, float input and output, int8 weights
[N, K] with one scale an output.
"""

from collections.abc import Sequence

import flatbuffers
import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema

# The first version of FULLY_CONNECTED that allows a scale for each output in this combination.
_FULLY_CONNECTED_VERSION = 9


def dynamic_range_model(
    layers: Sequence[tuple[npt.NDArray[np.int8], npt.NDArray[np.float32], npt.NDArray[np.float32]]],
    batch: int,
) -> bytes:
    """A model with one input and one output a layer; layers are independent of each other.

    Inputs are separate since XNNPACK would quantise a shared input only once.

    Args:
        layers: `(weights int8 [N, K], scale [N], bias [N])` of each layer.
        batch: Rows of every input.

    Returns:
        The model file's bytes.
    """
    graph = schema.SubGraphT()
    graph.name, graph.tensors, graph.operators = "main", [], []
    graph.inputs, graph.outputs = [], []
    model = schema.ModelT()
    model.version, model.buffers, model.subgraphs = 3, [schema.BufferT()], [graph]
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.FULLY_CONNECTED
    code.version = _FULLY_CONNECTED_VERSION
    model.operatorCodes = [code]

    def add_tensor(
        name: str,
        shape: tuple[int, ...],
        data: npt.NDArray[np.int8] | npt.NDArray[np.float32] | None = None,
        scale: npt.NDArray[np.float32] | None = None,
    ) -> int:
        tensor = schema.TensorT()
        tensor.name, tensor.shape = name, list(shape)
        tensor.type = schema.TensorType.FLOAT32 if scale is None else schema.TensorType.INT8
        if data is not None:
            buffer = schema.BufferT()
            buffer.data = data.reshape(-1).view(np.uint8)
            tensor.buffer = len(model.buffers)
            model.buffers.append(buffer)
        if scale is not None:
            tensor.quantization = schema.QuantizationParametersT()
            tensor.quantization.scale = scale
            tensor.quantization.zeroPoint = np.zeros(len(scale), np.int64)
            tensor.quantization.quantizedDimension = 0
        graph.tensors.append(tensor)
        return len(graph.tensors) - 1

    for index, (weights, scale, bias) in enumerate(layers):
        n, k = weights.shape
        x = add_tensor(f"x{index}", (batch, k))
        w = add_tensor(f"w{index}", (n, k), np.ascontiguousarray(weights), scale)
        b = add_tensor(f"b{index}", (n,), bias)
        y = add_tensor(f"y{index}", (batch, n))
        operator = schema.OperatorT()
        operator.opcodeIndex, operator.inputs, operator.outputs = 0, [x, w, b], [y]
        operator.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
        operator.builtinOptions = schema.FullyConnectedOptionsT()
        graph.operators.append(operator)
        graph.inputs.append(x)
        graph.outputs.append(y)

    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())
