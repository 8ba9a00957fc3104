"""A small model that is trained to answer like a large one."""

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from tfcompress_ops.compression import check_model
from tfcompress_ops.methods.outputs import (
    Activation,
    alike,
    check_one_output,
    output_activation,
)
from tfcompress_ops.structure import input_of, is_graph

# Keeps logarithms finite. Its inverse, a logarithm's gradient, is finite in float32 too.
_LEAST_PROBABILITY = 1e-30


class Distiller(keras.Model):  # type: ignore[misc]
    """Trains a student on labels and on what a teacher makes of the same inputs.

    With logits `z` of the student and `v` of the teacher, `T = temperature`:

        p_i  = exp(v_i / T) / sum_j exp(v_j / T)                  q_i likewise, of z
        loss = alpha * labels + (1 - alpha) * T^2 * sum_i p_i * log(p_i / q_i)
               + match_weight * sum over matched layers of mean((teacher - r(student))^2)

    `labels` is the loss that `compile` is given; the student's regularisation is added. `T^2` keeps
    the gradients of the soft targets as large as those of the labels when `T` changes. Outputs may
    be probabilities: `log(p)` takes the place of logits, with the same result. Sigmoid outputs, and
    a single one, are taken as labels of two classes each.

    `compile`, `fit`, `evaluate` and `predict` as with any Keras model: outputs and metrics are the
    student's. `save` and `export`, and so keras.callbacks.ModelCheckpoint, write the student alone,
    a model without a trace of its training. `save_weights` keeps what training needs to go on.

    The teacher is called with `training=False`, gets no gradient and is not changed. Under
    `tf.distribute`, make both models and the distiller in the strategy's scope. The student may be
    a compressed model: what can be trained of it (biases, the float32 values of `tfc.Sparse`) is.

    Args:
        student: A built model with one output; it is trained in place.
        teacher: A built model with one output, of the same shape.
        temperature: `T > 0`; the higher, the more the improbable classes count.
        alpha: Weight of the labels, 0 to 1. With 0, neither a loss nor labels are needed.
        matches: The student's layers, by name, to the teacher's layers whose outputs they shall
            have. Where the last axes differ in size, a linear map `r` of the student's output to
            the teacher's is trained besides, for the distiller alone.
        match_weight: Weight of the matched layers, at least 0.
        from_logits: Whether outputs are logits; for models whose last layer does not tell by its
            activation, linear, softmax or sigmoid.
        name: A name.

    Call arguments:
        inputs: What both models take.
        training: Whether the student trains.

    Returns:
        The student's outputs.

    Raises:
        TypeError: If a model is not a Keras model.
        ValueError: If a model is not built, outputs do not match, both share variables, a number is
            out of range, a layer to match is not there, or its shape does not match. In `fit`, if
            `alpha` is not 0 and there is no loss for labels.

    Example:
        >>> teacher = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        >>> student = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        >>> distiller = tfc.Distiller(student, teacher, temperature=2.0, alpha=0.0)
        >>> distiller.compile("sgd")
        >>> history = distiller.fit(np.eye(8), epochs=2, verbose=0)
        >>> history.history["loss"][1] < history.history["loss"][0]
        True

    References:
        Hinton et al., "Distilling the knowledge in a neural network", 2015, section 2.
        Romero et al., "FitNets: hints for thin deep nets", 2015, section 2.2. There, a guided layer
        is trained first and its regressor may be a convolution; here, all is trained at once, and
        `r` acts on the last axis.
    """

    def __init__(
        self,
        student: keras.Model,
        teacher: keras.Model,
        temperature: float = 4.0,
        alpha: float = 0.1,
        matches: Mapping[str, str] | None = None,
        match_weight: float = 1.0,
        from_logits: bool | None = None,
        name: str = "distiller",
    ) -> None:
        _check_numbers(temperature, alpha, match_weight)
        _check_models(student, teacher)
        super().__init__(name=name)
        self.student = student
        self.alpha = alpha
        self.match_weight = match_weight
        self._soft_loss = _SoftTargets(
            temperature,
            _activation(student, "student", from_logits),
            _activation(teacher, "teacher", from_logits),
        )
        pairs = dict(matches or {})
        self._student = _Tapped(student, "student", list(pairs))
        self._teacher = _Tapped(teacher, "teacher", list(pairs.values()))
        self._regressors = [
            _regressor(mine, its)
            for mine, its in zip(self._student.taps, self._teacher.taps, strict=True)
        ]
        # Keras asks the layers that it tracks whether XLA compiles them; it does not know of these.
        self.supports_jit = all(layer.supports_jit for layer in teacher._flatten_layers())
        self.built = True

    @property
    def teacher(self) -> keras.Model:
        """The model that gives soft targets. It is no part of this one: nothing trains it."""
        return self._teacher.model

    def call(self, inputs: Any, training: bool = False) -> Any:
        """The student's outputs."""
        outputs, hidden = self._student(inputs, training)
        if hidden:
            # For `compute_loss`, which Keras gives these outputs and nothing else of the call.
            outputs._distiller_hidden = hidden
        return outputs

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """The weighted sum of all losses; see the class."""
        losses = [self._aggregate_additional_loss(loss) for loss in self.losses]
        if self.alpha > 0:
            losses.append(self.alpha * self._label_loss(y, y_pred, sample_weight))
        if self.alpha < 1 or self._regressors:
            targets, hints = self._teacher(x, training=False)
            if not alike(y_pred, targets):
                raise _unlike(y_pred, targets)
            soft = self._soft_loss(tf.stop_gradient(targets), y_pred, sample_weight)
            losses.append((1 - self.alpha) * soft)
            hidden = getattr(y_pred, "_distiller_hidden", None)
            if self._regressors and hidden is None:  # Keras tries the loss on placeholders once.
                hidden = self._student(x, training)[1]
            if sample_weight is not None and len(sample_weight.shape) > 1:
                sample_weight = None  # Weights of steps in time say nothing of hidden layers.
            for mine, its, regress in zip(hidden or [], hints, self._regressors, strict=True):
                match = _Match(name="match")(tf.stop_gradient(its), regress(mine), sample_weight)
                losses.append(self.match_weight * match)
        return ops.sum(losses)

    def save(self, filepath: Any, overwrite: bool = True, **options: Any) -> None:
        """Saves the student; see keras.Model.save."""
        self.student.save(filepath, overwrite=overwrite, **options)

    def export(self, filepath: Any, *args: Any, **options: Any) -> None:
        """Exports the student for serving; see keras.Model.export."""
        self.student.export(filepath, *args, **options)

    def _label_loss(self, y: Any, y_pred: Any, sample_weight: Any) -> Any:
        if self._compile_loss is None:
            raise ValueError(
                f"`loss` of compile() must be given where labels count; received none, and `alpha` "
                f"is {self.alpha}. Compile with a loss, or distil without labels: alpha=0."
            )
        return self._compile_loss(y, y_pred, sample_weight)


class _Tapped:
    """A model, and the outputs of some of its layers; Keras does not track what it holds."""

    def __init__(self, model: keras.Model, argument: str, names: list[str]) -> None:
        self.model = model
        self.taps = [_output_of(model, argument, name) for name in names]
        self._runs: keras.Model | None = None
        if names:
            self._runs = keras.Model(input_of(model), [model.outputs[0], *self.taps])

    def __call__(self, inputs: Any, training: bool) -> tuple[Any, list[Any]]:
        if self._runs is None:
            return self.model(inputs, training=training), []
        outputs, *hidden = self._runs(inputs, training=training)
        return outputs, hidden


class _SoftTargets(keras.losses.Loss):  # type: ignore[misc]
    """`T^2 * KL(teacher || student)` of outputs softened by a temperature `T`."""

    def __init__(self, temperature: float, student: Activation, teacher: Activation) -> None:
        super().__init__(name="soft_targets")
        self._temperature = temperature
        self._student = student
        self._teacher = teacher

    def call(self, y_true: Any, y_pred: Any) -> Any:
        targets = ops.log_softmax(_logits(y_true, self._teacher) / self._temperature)
        outputs = ops.log_softmax(_logits(y_pred, self._student) / self._temperature)
        divergence = ops.sum(ops.exp(targets) * (targets - outputs), axis=-1)
        return self._temperature**2 * divergence


class _Match(keras.losses.Loss):  # type: ignore[misc]
    """The mean squared difference of all that a layer gives for an example."""

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return ops.mean(ops.square(y_true - y_pred), axis=tuple(range(1, len(y_pred.shape))))


def _logits(outputs: Any, activation: Activation) -> Any:
    """Logits of classes on the last axis, which is a new one of two classes for single labels."""
    if activation is keras.activations.softmax:
        return _log(outputs)
    if activation is keras.activations.sigmoid:
        return ops.stack([_log(1 - outputs), _log(outputs)], axis=-1)
    if outputs.shape[-1] == 1:
        return ops.stack([ops.zeros_like(outputs), outputs], axis=-1)
    return outputs


def _log(probabilities: Any) -> Any:
    return ops.log(ops.maximum(probabilities, _LEAST_PROBABILITY))


def _activation(model: keras.Model, argument: str, from_logits: bool | None) -> Activation:
    known = output_activation(model)
    if known is not None:
        return known
    if from_logits is None:
        raise ValueError(
            f"`from_logits` must be given where a last layer does not tell; received None, and "
            f"`{argument}` is {model.name!r}. True: it gives logits; False: probabilities."
        )
    if from_logits:
        return keras.activations.linear  # type: ignore[no-any-return]
    single = is_graph(model) and model.outputs[0].shape[-1] == 1
    return keras.activations.sigmoid if single else keras.activations.softmax  # type: ignore[no-any-return]


def _output_of(model: keras.Model, argument: str, name: str) -> Any:
    if not is_graph(model):
        raise ValueError(
            f"`{argument}` must be a Sequential or Functional model where layers are matched; "
            f"received {model.name!r} ({type(model).__name__})."
        )
    names = [layer.name for layer in model.layers]
    if name not in names:
        raise ValueError(
            f"`matches` must name layers of `{argument}`; received {name!r}. It has: "
            f"{', '.join(names)}."
        )
    try:
        output = model.get_layer(name).output
    except AttributeError as error:
        raise ValueError(
            f"`matches` must name layers that are called once; received {name!r} of `{argument}`."
        ) from error
    if len(keras.tree.flatten(output)) != 1:
        raise ValueError(
            f"`matches` must name layers with one output; received {name!r} of `{argument}`."
        )
    return output


def _regressor(mine: Any, its: Any) -> keras.layers.Layer:
    """What makes a student's layer comparable to a teacher's."""
    if alike(mine, its):
        return keras.layers.Identity()
    if mine.shape[-1] is None or its.shape[-1] is None or not alike(mine[..., :1], its[..., :1]):
        raise ValueError(
            "`matches` must pair layers whose shapes differ on the last axis only; received "
            f"{tuple(mine.shape)} of {mine._keras_history.operation.name!r} and "
            f"{tuple(its.shape)} of {its._keras_history.operation.name!r}."
        )
    regressor = keras.layers.Dense(its.shape[-1])
    regressor.build(mine.shape)
    return regressor


def _check_numbers(temperature: float, alpha: float, match_weight: float) -> None:
    if not 0 < temperature < float("inf"):
        raise ValueError(
            f"`temperature` must be above 0; received {temperature}. 2 to 10 are usual."
        )
    if not 0 <= alpha <= 1:
        raise ValueError(
            f"`alpha` must be from 0 (the teacher alone) to 1 (labels alone); received {alpha}."
        )
    if not 0 <= match_weight < float("inf"):
        raise ValueError(f"`match_weight` must be at least 0; received {match_weight}.")


def _check_models(student: keras.Model, teacher: keras.Model) -> None:
    for argument, model in (("student", student), ("teacher", teacher)):
        check_model(model, argument)
        check_one_output(model, argument)
    if {id(variable) for variable in student.variables} & set(map(id, teacher.variables)):
        raise ValueError(
            f"`student` must share no variables with `teacher`; received {student.name!r} and "
            f"{teacher.name!r}, which do. Copy one: copy.deepcopy(model)."
        )
    if not (is_graph(student) and is_graph(teacher)):
        return  # Their outputs are known when they are called.
    outputs, targets = student.outputs[0], teacher.outputs[0]
    labels = [output_activation(one) is keras.activations.sigmoid for one in (student, teacher)]
    if not alike(outputs, targets):
        raise _unlike(outputs, targets)
    if labels[0] != labels[1] and outputs.shape[-1] != 1:
        raise ValueError(
            "`student` and `teacher` must both give single labels (sigmoid) or both classes; "
            f"received {student.name!r} and {teacher.name!r}, of which one has sigmoid outputs."
        )


def _unlike(outputs: Any, targets: Any) -> ValueError:
    return ValueError(
        "`student` and `teacher` must have outputs of the same shape; received "
        f"{tuple(outputs.shape)} of the student and {tuple(targets.shape)} of the teacher. Give "
        "the student as many outputs as the teacher has."
    )
