"""MultiWorkerMirroredStrategy: two processes on loopback train what one device trains."""

import concurrent.futures
import json
import socket

import numpy as np
import pytest

CODE = """
    import contextlib, json, os
    import keras, numpy as np, tensorflow as tf

    workers = json.loads(os.environ.get("TF_CONFIG", "{}"))
    # A strategy wants to be made before anything runs, so before the op library is loaded.
    strategy = tf.distribute.MultiWorkerMirroredStrategy() if workers else None
    import tfcompress_ops as tfc

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(96, 8)).astype("f"), rng.integers(0, 4, 96)

    def network(hidden, seed):
        def dense(count, activation=None):
            init = keras.initializers.GlorotNormal(seed + count)
            name = f"d{count}"
            return keras.layers.Dense(count, activation, kernel_initializer=init, name=name)

        return keras.Sequential([keras.Input((8,)), dense(hidden, "relu"), dense(4)])

    def data():
        options, DATA = tf.data.Options(), tf.data.experimental.AutoShardPolicy.DATA
        options.experimental_distribute.auto_shard_policy = DATA
        return tf.data.Dataset.from_tensor_slices((x, y)).batch(32).with_options(options)

    LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    EPOCHS = 4
    schedule = tfc.schedules.Polynomial(0.0, 0.75, 1, 9, frequency=2)
    index = workers["task"]["index"] if workers else 0

    def train(trained):
        trained.compile(keras.optimizers.Adam(0.01), LOSS)
        pruning = tfc.callbacks.Pruning({"d4": None, "*": schedule})
        if not strategy:
            trained.fit(data(), epochs=EPOCHS, verbose=0, callbacks=[pruning])
            return
        # Keras 3's own fit() fails with several workers as it reduces batches and logs (#20585 of
        # keras-team/keras): this is its loop.
        train_step = tf.function(lambda batch: strategy.run(trained.train_step, (batch,)))
        callbacks = keras.callbacks.CallbackList([pruning], model=trained)
        callbacks.on_train_begin()
        for epoch in range(EPOCHS):
            for step, batch in enumerate(strategy.experimental_distribute_dataset(data())):
                train_step(batch)
                callbacks.on_train_batch_end(step)
        callbacks.on_train_end()

    for mode in ("prune", "distil"):
        with strategy.scope() if strategy else contextlib.nullcontext():
            keras.utils.set_random_seed(1)
            trained = student = network(32, 0)
            if mode == "distil":
                trained = tfc.Distiller(student, network(48, 7), temperature=3.0, alpha=0.25)
            train(trained)
        np.savez(f"{mode}_{len(workers)}_{index}.npz", *student.get_weights())
    if strategy:
        assert strategy.num_replicas_in_sync == 2
"""


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


@pytest.mark.slow
def test_two_workers_give_what_one_device_does(run_python, tmp_path):
    addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]
    configs = [
        json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}})
        for index in range(2)
    ]
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda config: run_python(CODE, {"TF_CONFIG": config}), [None, *configs]))
    kernels = []
    for mode in ("prune", "distil"):
        alone = np.load(tmp_path / f"{mode}_0_0.npz")
        kernels.append(alone["arr_0"])
        assert (kernels[-1] == 0).mean() == 0.75
        for index in range(2):
            worker = np.load(tmp_path / f"{mode}_2_{index}.npz")
            for name in alone.files:
                np.testing.assert_allclose(worker[name], alone[name], rtol=2e-3, atol=2e-5)
            np.testing.assert_array_equal(worker["arr_0"] == 0, kernels[-1] == 0)
    assert np.abs(kernels[0] - kernels[1]).max() > 0.01
