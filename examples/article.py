"""Weight pruning and integer quantisation of a small network, as they should be written.

The two methods of the article that this package started from, on its network:

*   Threshold pruning, `w_new = w * [|w| > threshold]`. The magnitude decides, not the sign.
*   Integer quantisation, `w_q = round((w - mean) / scale)`, with a mean and a scale for every
    output, `scale = max |w - mean| / 127`, and integers that are kept as int8 and multiplied back:
    `x @ w ~ scale * (x @ w_q) + mean * sum(x)`. That is `tfc.Int8(center=True)`.

The data is generated: ten classes around ten centres, so there is something to learn and a held-out
set tells whether it survived.

    python examples/article.py
"""

import keras
import numpy as np
import tensorflow as tf

import tfcompress_ops as tfc

CLASSES, FEATURES = 10, 32
THRESHOLD = 0.05


def make_data(rng: np.random.Generator, centres: np.ndarray, rows: int) -> tuple[np.ndarray, ...]:
    """Draws points around the centres: inputs [rows, 32] and integer labels [rows]."""
    labels = rng.integers(0, CLASSES, rows)
    noise = rng.normal(size=(rows, FEATURES))
    return (centres[labels] + noise).astype(np.float32), labels


def make_model() -> keras.Model:
    """The article's network: 32 inputs, 64 hidden units, 10 classes."""
    model = keras.Sequential(
        [
            keras.Input((FEATURES,)),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dense(CLASSES, activation="softmax"),
        ]
    )
    model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def prune(model: keras.Model, threshold: float) -> keras.Model:
    """Sets kernel weights of magnitude up to `threshold` to zero, in a copy of the model.

    Biases stay: there are few of them, and they cost no multiplication.
    """
    pruned = keras.models.clone_model(model)
    pruned.set_weights(model.get_weights())
    for layer in pruned.layers:
        if isinstance(layer, keras.layers.Dense):
            kernel = tf.convert_to_tensor(layer.kernel)
            layer.kernel.assign(tf.where(tf.abs(kernel) > threshold, kernel, 0.0))
    return pruned


def count_zeros(model: keras.Model) -> tuple[int, int]:
    """Kernel weights that are zero, and all kernel weights."""
    kernels = [np.asarray(weight) for weight in model.get_weights() if weight.ndim == 2]
    zeros = sum(int(kernel.size - np.count_nonzero(kernel)) for kernel in kernels)
    return zeros, sum(kernel.size for kernel in kernels)


def main(epochs: int = 10) -> dict[str, float]:
    """Trains, prunes, quantises and prints what each step costs; returns the numbers."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    centres = rng.normal(0, 0.6, (CLASSES, FEATURES))
    x_train, y_train = make_data(rng, centres, 4000)
    x_test, y_test = make_data(rng, centres, 2000)

    model = make_model()
    model.fit(x_train, y_train, epochs=epochs, verbose=0)
    pruned = prune(model, THRESHOLD)
    quantized = tfc.compress(pruned, tfc.Int8(center=True))

    results: dict[str, float] = {}
    for name, one in (("trained", model), ("pruned", pruned), ("pruned, int8", quantized)):
        accuracy = one.evaluate(x_test, y_test, verbose=0, return_dict=True)["accuracy"]
        size = sum(weight.nbytes for weight in one.get_weights())
        results[name] = accuracy
        print(f"{name:13}  accuracy {accuracy:.1%}  weights {size:6,} bytes")

    zeros, weights = count_zeros(pruned)
    results["zeros"] = zeros / weights
    print(f"\n|w| <= {THRESHOLD}: {zeros:,} of {weights:,} kernel weights are zero")
    layer = quantized.layers[0]
    quantized_kernel = tfc.kernels.int8_unpack(layer.packed_arrays()["kernel"], FEATURES, 64)
    print(f"int8 values of the first kernel: {quantized_kernel.min()} ... {quantized_kernel.max()}")
    print()
    print(tfc.report(pruned, quantized, x_test))
    return results


if __name__ == "__main__":
    main()
