"""What the package is measured against: TensorFlow itself, Keras' int8, and other engines.

A peer is one class; `PEERS` lists an instance of each in the order of the tables.
"""

import importlib
from typing import Any, ClassVar

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tfcompress_ops.bench.cases import Case
from tfcompress_ops.bench.chains import (
    Array,
    Chain,
    LayerWeights,
    Problem,
    TensorFlowLayer,
    TensorLayer,
    tensorflow_chain,
)

_Quantized = tuple[npt.NDArray[np.int8], Array]


class TensorFlowMatMul(Case):
    """`tf.matmul` in float32 plus bias, fused as Grappler fuses it: the dense baseline.

    The fused op is written into the graph by hand, since Grappler leaves ops alone that control
    edges touch, and a chain has those. It costs what the fused op of an ordinary model costs.
    """

    name = "tf.matmul"
    arithmetic = "float32"
    tolerance = 1e-5

    def weight_bytes(self, in_features: int, out_features: int) -> int:
        """Four bytes a weight."""
        return 4 * in_features * out_features

    def build(self, problem: Problem) -> Chain:
        """Chains the fused op; see `Case`."""
        layers = [
            TensorFlowLayer(
                apply=lambda x, tensors: _fused_matmul(x, tensors["kernel"], tensors["bias"]),
                variables={
                    "kernel": tf.Variable(layer.kernel, trainable=False),
                    "bias": tf.Variable(layer.bias, trainable=False),
                },
                op="_FusedMatMul",
            )
            for layer in problem.weights
        ]
        return tensorflow_chain(layers, problem.inputs)


class KerasInt8(Case):
    """A Keras Dense layer as `quantize("int8")` leaves it.

    It is built under the int8 policy instead: `quantize` collects garbage after every layer, which
    would take longer than the measurement.
    """

    name = "keras int8"
    arithmetic = "int8"
    tolerance = 0.03

    def weight_bytes(self, in_features: int, out_features: int) -> int:
        """One byte a weight."""
        return in_features * out_features

    def build(self, problem: Problem) -> Chain:
        """Chains the layers' ops; see `Case`."""
        layers = [
            # Keras multiplies int8 matrices through this op.
            TensorFlowLayer(apply=_call(self.layer(weights)), variables={}, op="BatchMatMulV3")
            for weights in problem.weights
        ]
        return tensorflow_chain(layers, problem.inputs)

    @staticmethod
    def layer(weights: LayerWeights) -> Any:
        """The Keras layer with these weights."""
        k, n = weights.kernel.shape
        layer = keras.layers.Dense(n, dtype="int8_from_float32")
        layer.build((None, k))
        quantized, scale = quantize_weights(weights.kernel, 127)
        # Keras divides by what it calls the scale.
        layer.set_weights([weights.bias, quantized, 1 / scale])
        return layer


class LiteRT(Case):
    """LiteRT with dynamic-range int8 weights: XNNPACK's qd8-qc8w kernels."""

    name = "litert int8"
    arithmetic = "int8"
    tolerance = 0.03
    modules: ClassVar[tuple[str, ...]] = ("ai_edge_litert",)
    install: ClassVar[str] = "pip install ai-edge-litert"

    def weight_bytes(self, in_features: int, out_features: int) -> int:
        """One byte a weight."""
        return in_features * out_features

    def build(self, problem: Problem) -> Chain:
        """Writes and loads one model of all layers; see `Case`."""
        interpreter = self._interpreter(problem)
        tiny = self._interpreter(_tiny_problem(problem.threads))
        last = interpreter.get_output_details()[-1]["index"]

        def output() -> Array:
            interpreter.invoke()
            result: Array = interpreter.get_tensor(last)
            return result

        return Chain(
            call=interpreter.invoke,
            layers=problem.distinct,
            distinct=problem.distinct,
            empty=tiny.invoke,
            output=output,
        )

    @staticmethod
    def _interpreter(problem: Problem) -> Any:
        module = importlib.import_module("ai_edge_litert.interpreter")
        from tfcompress_ops.bench.litert_model import dynamic_range_model

        layers = []
        for weights in problem.weights:
            quantized, scale = quantize_weights(weights.kernel, 127)
            layers.append((quantized.T, scale, weights.bias))
        content = dynamic_range_model(layers, len(problem.inputs[0]))
        interpreter = module.Interpreter(model_content=content, num_threads=problem.threads)
        interpreter.allocate_tensors()
        for detail, x in zip(interpreter.get_input_details(), problem.inputs, strict=True):
            interpreter.set_tensor(detail["index"], x)
        return interpreter


class OnnxRuntime(Case):
    """ONNX Runtime with dynamically quantised activations and int8 weights.

    Weights have 7 bits, which is what its documentation advises for processors without VNNI (its
    kernels saturate there) and makes no difference to the speed.
    """

    name = "onnxruntime int8"
    arithmetic = "int8"
    tolerance = 0.05
    modules: ClassVar[tuple[str, ...]] = ("onnxruntime", "onnx")
    install: ClassVar[str] = "pip install onnxruntime onnx"

    def weight_bytes(self, in_features: int, out_features: int) -> int:
        """One byte a weight."""
        return in_features * out_features

    def build(self, problem: Problem) -> Chain:
        """Writes and loads one model of all layers; see `Case`."""
        session, binding, outputs = self._session(problem)
        tiny_session, tiny_binding, _ = self._session(_tiny_problem(problem.threads))

        def output() -> Array:
            session.run_with_iobinding(binding)
            result: Array = outputs[-1].numpy()
            return result

        return Chain(
            call=lambda: session.run_with_iobinding(binding),
            layers=problem.distinct,
            distinct=problem.distinct,
            empty=lambda: tiny_session.run_with_iobinding(tiny_binding),
            output=output,
        )

    @staticmethod
    def _session(problem: Problem) -> tuple[Any, Any, list[Any]]:
        """A session, and its inputs and outputs bound to memory so that a run copies nothing."""
        ort = importlib.import_module("onnxruntime")
        from tfcompress_ops.bench.onnx_model import dynamic_model

        layers = []
        for weights in problem.weights:
            quantized, scale = quantize_weights(weights.kernel, 63)
            layers.append((quantized, scale, weights.bias))
        options = ort.SessionOptions()
        options.intra_op_num_threads = problem.threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        # Its threads go on spinning between the layers, but not into the next case's time.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        session = ort.InferenceSession(
            dynamic_model(layers, len(problem.inputs[0])).SerializeToString(),
            options,
            providers=["CPUExecutionProvider"],
        )
        binding = session.io_binding()
        outputs = []
        for index, (x, weights) in enumerate(zip(problem.inputs, problem.weights, strict=True)):
            y = np.empty((len(x), len(weights.bias)), np.float32)
            binding.bind_ortvalue_input(f"x{index}", ort.OrtValue.ortvalue_from_numpy(x))
            outputs.append(ort.OrtValue.ortvalue_from_numpy(y))
            binding.bind_ortvalue_output(f"y{index}", outputs[-1])
        return session, binding, outputs


BASELINE = TensorFlowMatMul()
PEERS: tuple[Case, ...] = (KerasInt8(), LiteRT(), OnnxRuntime())


def _call(layer: Any) -> TensorLayer:
    """A Keras layer, which reads its variables itself."""
    return lambda x, _: layer(x)


def quantize_weights(kernel: Array, limit: int) -> _Quantized:
    """Rounds `kernel` [K, N] to integers within +-`limit`, with one scale an output: [N]."""
    scale = np.abs(kernel).max(axis=0) / np.float32(limit)
    return np.rint(kernel / scale).astype(np.int8), scale


def _tiny_problem(threads: int) -> Problem:
    """One layer that costs next to nothing, so that its time is that of the call."""
    weights = LayerWeights(np.eye(16, dtype=np.float32), np.zeros(16, np.float32))
    return Problem((weights,), (np.ones((1, 16), np.float32),), threads)


def _fused_matmul(x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
    """`x @ kernel + bias` as the op that Grappler's remapper makes of the two."""
    value = tf.compat.v1.AttrValue
    operation = tf.compat.v1.get_default_graph().create_op(
        "_FusedMatMul",
        [x, kernel, bias],
        [tf.float32],
        attrs={
            "T": value(type=tf.float32.as_datatype_enum),
            "num_args": value(i=1),
            "fused_ops": value(list=value.ListValue(s=[b"BiasAdd"])),
            "transpose_a": value(b=False),
            "transpose_b": value(b=False),
        },
        name="fused_matmul",
    )
    return operation.outputs[0]
