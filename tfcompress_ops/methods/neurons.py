"""Removing whole units and channels: smaller layers in place of zeros."""

import numbers
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from keras.layers import Layer
from keras.src.ops import numpy as numpy_operations

from tfcompress_ops.compression import batches, check_model, run_batch, watching
from tfcompress_ops.layers.layer import CompressedLayer
from tfcompress_ops.rebuilding import copy_layer, copy_variables, rebuild, tied_layers
from tfcompress_ops.structure import is_container, is_graph, layer_paths, own_variables

Array = npt.NDArray[Any]

# The size of what is removed in a configuration, and the kernel's axes of inputs and units.
_PRODUCERS: dict[type[Layer], tuple[str, int, int]] = {
    keras.layers.Dense: ("units", -2, -1),
    keras.layers.Conv1D: ("filters", -2, -1),
    keras.layers.Conv2D: ("filters", -2, -1),
    keras.layers.Conv3D: ("filters", -2, -1),
    keras.layers.Conv1DTranspose: ("filters", -1, -2),
    keras.layers.Conv2DTranspose: ("filters", -1, -2),
    keras.layers.Conv3DTranspose: ("filters", -1, -2),
}
_DEPTHWISE = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)
# These treat every channel by itself and alike.
_CHANNELWISE = {
    getattr(keras.layers, name + dimensions)
    for name, ranks in {
        "MaxPooling": "123",
        "AveragePooling": "123",
        "GlobalMaxPooling": "123",
        "GlobalAveragePooling": "123",
        "ZeroPadding": "123",
        "Cropping": "123",
        "UpSampling": "123",
        "SpatialDropout": "123",
    }.items()
    for dimensions in (f"{rank}D" for rank in ranks)
} | {
    *(keras.layers.Dropout, keras.layers.AlphaDropout),
    *(keras.layers.GaussianDropout, keras.layers.GaussianNoise),
    *(keras.layers.ReLU, keras.layers.LeakyReLU, keras.layers.ELU, keras.layers.Identity),
}
_MERGES = {
    *(keras.layers.Add, keras.layers.Subtract, keras.layers.Multiply),
    *(keras.layers.Average, keras.layers.Maximum, keras.layers.Minimum),
    *(numpy_operations.Add, numpy_operations.Subtract, numpy_operations.Multiply),
}
# The others, softmax among them, or functions that are unknown, may mix units.
_ELEMENTWISE = {
    getattr(keras.activations, name)
    for name in (
        *("linear", "relu", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "sigmoid"),
        *("hard_sigmoid", "log_sigmoid", "tanh", "hard_tanh", "tanh_shrink", "silu", "hard_silu"),
        *("softplus", "softsign", "exponential", "mish"),
    )
}
_ORDERS = {"l1": 1, "l2": 2}
_ACTIVATION = "activation"
_BATCH = 64


def remove_neurons(
    model: keras.Model,
    fraction: float | None = None,
    threshold: float | None = None,
    importance: str = "l1",
    list_kept: Callable[[str, str], Any] | None = None,
    data: Any = None,
) -> keras.Model:
    """Removes the units and channels of least importance: a smaller model, dense as before.

    What goes are units of Dense layers and output channels of convolutions (transposed ones too) of
    the least importance:

        "l1": sum |w|          "l2": sqrt(sum w^2)          of all weights that lead into the unit
        "activation": mean |a| over `data` (and positions) of what it gives to the layers with
                      kernels that follow, after normalisation and activation; of several, the sum

    With it go its bias, its entries of BatchNormalization, its channel of depthwise
    convolutions, and the rows of the next kernels, after Flatten one for each position. Outputs are
    those of the model in which all weights that lead out of the removed units are zero.

    Units that Add, Multiply and other merging layers tie together go together, ranked by the norm
    of all their incoming weights, or by what comes of them; Concatenate ties nothing. The units
    that make the model's inputs and outputs stay, as do those that other layers or functions need
    whole, such as LayerNormalization, attention, recurrent layers, softmax, or a model inside the
    model.

    The model is left as it is, and a compiled one comes back compiled, with a new optimizer. Train
    on afterwards; then `tfc.prune` or `tfc.compress`.

    Args:
        model: A built Sequential or Functional model with channels last.
        fraction: Of each layer's units, or of those of all the layers that are tied together, which
            can be removed, that fraction goes, rounded down; 0 < fraction < 1. Every layer keeps a
            unit.
        threshold: Units whose importance is below it go; > 0.
        importance: `"l1"`, `"l2"` or `"activation"`.
        list_kept: Called with the path of each layer that has weights and keeps all or some of its
            units whatever their importance, and with the reason; `print`, for example.
        data: Inputs, for `importance="activation"`: arrays as the model takes them, or an iterable
            of batches of inputs, or of tuples that start with them. The model runs on it once.

    Returns:
        A new model of the same layers, some of them with fewer units.

    Raises:
        TypeError: If `model` is not a Keras model, or `fraction` or `threshold` is not a number.
        ValueError: If the model is subclassed, not built or compressed, if no layer has units that
            can be removed, if a threshold leaves a layer without units, if `data` is empty or makes
            activations that are not finite, or if options are missing, out of range or exclude
            each other.

    Example:
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(6, "relu")])
        >>> model.add(keras.layers.Dense(2, name="head"))
        >>> small = tfc.remove_neurons(model, fraction=0.5, list_kept=print)
        head its units make the model's outputs
        >>> [tuple(layer.kernel.shape) for layer in small.layers]
        [(8, 3), (3, 2)]

    References:
        Li et al., "Pruning Filters for Efficient ConvNets", 2017, sections 3.1 and 3.3.
        Molchanov et al., "Pruning Convolutional Neural Networks for Resource Efficient Inference",
        2017, section 2.2 (mean activation).
    """
    _check(model, fraction, threshold, importance, data)
    graph = _Graph(model)
    kept = graph.kept_layers()
    if not graph.removable():
        reasons = "".join(f"\n  {path}: {reason}" for path, reason in kept.items())
        raise ValueError(
            f"`model` must have units that can be removed; received {model.name!r}, which has "
            f"none:{reasons}"
        )
    if list_kept is not None:
        for path, reason in kept.items():
            list_kept(path, reason)
    if importance == _ACTIVATION:
        scores = graph.activations(data)
    else:
        scores = graph.norms(_ORDERS[importance])
    removed = graph.choose(fraction, threshold, scores)
    return rebuild(model, lambda layer: graph.smaller(layer, removed))


class _Units:
    """Units by number, which of them are tied together, and why some of them stay."""

    def __init__(self) -> None:
        self._parents: list[int] = []
        self._reasons: dict[int, str] = {}

    def new(self, count: int, reason: str | None = None) -> Array:
        first = len(self._parents)
        units = np.arange(first, first + count)
        self._parents.extend(range(first, first + count))
        if reason is not None:
            self.keep(units, reason)
        return units

    def root(self, unit: int) -> int:
        while self._parents[unit] != unit:
            self._parents[unit] = self._parents[self._parents[unit]]
            unit = self._parents[unit]
        return unit

    def roots(self, units: Array) -> Array:
        return np.array([self.root(int(unit)) for unit in units], dtype=np.int64)

    def keep(self, units: Array, reason: str) -> None:
        for root in self.roots(units):
            self._reasons.setdefault(int(root), reason)

    def reason(self, unit: int) -> str | None:
        return self._reasons.get(self.root(unit))

    def tie(self, some: Array, others: Array, name: str) -> None:
        """Ties units in pairs, or keeps all if there are not equally many."""
        if len(some) != len(others):
            for units in (some, others):
                self.keep(units, f"{name!r} applies them to a different number of units")
            return
        for one, other in zip(self.roots(some), self.roots(others), strict=True):
            root, child = self.root(int(one)), self.root(int(other))
            if root != child:
                self._parents[child] = root
                if child in self._reasons:
                    self._reasons.setdefault(root, self._reasons[child])


class _Graph:
    """Which units stand along the last axis of each tensor of a model."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._units = _Units()
        # By layer: the units along its inputs' and its outputs' last axes.
        self._inputs: dict[Layer, Array] = {}
        self._outputs: dict[Layer, Array] = {}
        self._shapes: dict[Layer, tuple[int | None, ...]] = {}  # of inputs
        self._tensors: dict[int, Array] = {}
        self._fixed: dict[Layer, str] = {
            layer: f"it shares a weight with {other!r}"
            for layer, other in tied_layers(layer_paths(model).values()).items()
        }
        for layer in model.layers:
            if is_graph(layer) or is_container(layer):
                for inner in layer._flatten_layers(include_self=False):
                    self._fixed[inner] = f"it is inside {layer.name!r}"
        functional = model._functional if isinstance(model, keras.Sequential) else model
        for depth in sorted(functional._nodes_by_depth, reverse=True):
            for node in functional._nodes_by_depth[depth]:
                self._follow(node)
        for tensor in keras.tree.flatten(functional.outputs):
            self._units.keep(self._tensors[id(tensor)], "its units make the model's outputs")

    def _follow(self, node: Any) -> None:
        """Finds the units of a node's outputs from those of its inputs."""
        operation, tensors = node.operation, node.arguments.keras_tensors
        if node.is_input:
            for tensor in node.outputs:
                self._tensors[id(tensor)] = self._fresh(tensor, "they are tied to model inputs")
            return
        inputs = [self._tensors[id(tensor)] for tensor in tensors]
        if tensors:
            self._shapes.setdefault(operation, tensors[0].shape)
        units = self._through(operation, inputs, tensors, node.outputs[0])
        if units is None or len(node.outputs) != 1:
            reason = f"{operation.name!r} ({type(operation).__name__}) needs them all"
            for one in inputs:
                self._units.keep(one, reason)
            for tensor in node.outputs:
                self._tensors[id(tensor)] = self._fresh(
                    tensor, f"they are tied to outputs of {operation.name!r}"
                )
            return
        if inputs and operation not in self._inputs:
            self._inputs[operation] = inputs[0]
        self._outputs[operation] = units
        self._tensors[id(node.outputs[0])] = units

    def _fresh(self, tensor: Any, reason: str) -> Array:
        return self._units.new((tensor.shape or (1,))[-1] or 1, reason)

    def _through(
        self, operation: Any, inputs: list[Array], tensors: Sequence[Any], output: Any
    ) -> Array | None:
        """The units of an operation's output, or `None` if it is not known how it treats units."""
        cls = type(operation)
        ranks = {len(tensor.shape) for tensor in tensors}
        if (
            operation in self._fixed
            or min(ranks, default=0) < 2
            or getattr(operation, "data_format", "channels_last") != "channels_last"
        ):
            return None
        if cls in _MERGES:
            # One input: the other is a constant, which may have an entry for each unit.
            if len(inputs) < 2 or any(len(one) != len(inputs[0]) for one in inputs):
                return None
            for one in inputs[1:]:
                self._units.tie(inputs[0], one, operation.name)
            return inputs[0]
        if cls is keras.layers.Concatenate:
            if operation.axis in (-1, max(ranks) - 1):
                return np.concatenate(inputs)
            for one in inputs[1:]:
                self._units.tie(inputs[0], one, operation.name)
            return inputs[0]
        if len(inputs) != 1:
            return None
        units, rank, last = inputs[0], min(ranks), tensors[0].shape[-1]
        if last != len(units):
            return None
        if cls in _CHANNELWISE or (
            cls is keras.layers.Activation and operation.activation in _ELEMENTWISE
        ):
            return units
        if cls is keras.layers.Flatten:
            size = output.shape[-1]
            return None if size is None else np.tile(units, size // len(units))
        if operation in self._inputs:  # A shared layer, which has one size.
            self._units.tie(self._inputs[operation], units, operation.name)
        if cls is keras.layers.Reshape:
            return units if operation.target_shape[-1] == last else None
        if cls is keras.layers.BatchNormalization:
            return units if operation.axis in (-1, rank - 1) else None
        if cls in _DEPTHWISE:
            elementwise = operation.activation in _ELEMENTWISE
            return np.repeat(units, operation.depth_multiplier) if elementwise else None
        if cls in _PRODUCERS and _is_plain(operation):
            if operation not in self._outputs:
                made = self._units.new(output.shape[-1])
                if operation.activation not in _ELEMENTWISE:
                    self._units.keep(made, "its activation may depend on all of them")
                return made
            return self._outputs[operation]
        return None

    def _producers(self) -> dict[Layer, Array]:
        return {
            layer: units
            for layer, units in self._outputs.items()
            if type(layer) in _PRODUCERS and layer not in self._fixed
        }

    def removable(self) -> bool:
        return any(
            self._units.reason(int(unit)) is None
            for units in self._producers().values()
            for unit in units
        )

    def kept_layers(self) -> dict[str, str]:
        """Layers that keep units whatever their importance, by path, and why."""
        kept: dict[str, str] = {}
        producers = self._producers()
        for path, layer in layer_paths(self._model).items():
            if layer in producers:
                found = [self._units.reason(int(unit)) for unit in producers[layer]]
                reasons = [reason for reason in found if reason is not None]
                some = f"{len(reasons)} of {len(found)} units: "
                if reasons:
                    kept[path] = ("" if len(reasons) == len(found) else some) + reasons[0]
            elif layer in self._fixed:
                kept[path] = self._fixed[layer]
            elif layer not in self._outputs and own_variables(layer):
                kept[path] = f"no rule says how to cut such a {type(layer).__name__}"
        return kept

    def norms(self, order: int) -> dict[int, float]:
        """By root, the norm of all weights that lead into its units."""
        sums: dict[int, float] = {}
        for layer, units in self._producers().items():
            powers = _powers(layer, order)
            for root, value in zip(self._units.roots(units), powers, strict=True):
                sums[int(root)] = sums.get(int(root), 0.0) + float(value)
        return {root: value ** (1 / order) for root, value in sums.items()}

    def activations(self, data: Any) -> dict[int, float]:
        """By root, the mean magnitude of what layers with kernels get of its units, their sum."""
        readers = {
            layer: self._units.roots(units)
            for layer, units in self._inputs.items()
            if type(layer) in _PRODUCERS
        }
        totals = {layer: np.zeros(len(roots)) for layer, roots in readers.items()}
        counts = dict.fromkeys(readers, 0)

        def reading(layer: Layer) -> Callable[[Any, Any], None]:
            def watch(inputs: Any, outputs: Any) -> None:
                values = np.abs(np.asarray(inputs, np.float64)).reshape(-1, len(readers[layer]))
                totals[layer] += values.sum(axis=0)
                counts[layer] += len(values)

            return watch

        with watching({layer: reading(layer) for layer in readers}):
            for batch in batches(data, _BATCH):
                run_batch(self._model, batch, "data")
        if not all(counts.values()):
            raise ValueError("`data` must hold inputs; received none.")
        if not all(np.isfinite(total).all() for total in totals.values()):
            raise ValueError(
                "`data` must make finite activations; received inputs that make NaN or infinite "
                f"ones in {self._model.name!r}."
            )
        scores: dict[int, float] = {}
        for layer, roots in readers.items():
            found, places = np.unique(roots, return_inverse=True)
            means = np.bincount(places, totals[layer]) / np.bincount(places) / counts[layer]
            for root, mean in zip(found, means, strict=True):
                scores[int(root)] = scores.get(int(root), 0.0) + float(mean)
        return scores

    def choose(
        self, fraction: float | None, threshold: float | None, scores: dict[int, float]
    ) -> set[int]:
        """The units to remove, by their roots, and so the scores of their importance."""
        removed: set[int] = set()
        roots = {layer: self._units.roots(units) for layer, units in self._producers().items()}
        for layers in _components(roots):
            found = {int(root) for layer in layers for root in roots[layer]}
            candidates = sorted(
                (root for root in found if self._units.reason(root) is None),
                key=lambda root: (scores.get(root, 0.0), root),
            )
            if threshold is not None:
                removed.update(root for root in candidates if scores.get(root, 0.0) < threshold)
                for layer in layers:
                    if removed.issuperset(roots[layer].tolist()):
                        most = max(scores.get(int(root), 0.0) for root in roots[layer])
                        raise ValueError(
                            f"`threshold` must leave each layer a unit; received {threshold}, and "
                            f"no unit of {layer.name!r} is above {most:.6g}. Lower it, or give a "
                            "`fraction`."
                        )
                continue
            assert fraction is not None
            count = int(fraction * len(candidates) + 1e-9)  # 0.29 * 100 is below 29.
            left = [set(roots[layer].tolist()) for layer in layers]
            for root in candidates:
                if count and {root} not in left:
                    removed.add(root)
                    count -= 1
                    for units_left in left:
                        units_left.discard(root)
        return removed

    def smaller(self, layer: Layer, removed: set[int]) -> Layer | None:
        """A layer without the removed units, or `None` if it has none of them."""
        if layer not in self._outputs or layer not in self._inputs:
            return None
        inputs, outputs = (
            ~np.isin(self._units.roots(of[layer]), list(removed))
            for of in (self._inputs, self._outputs)
        )
        if inputs.all() and outputs.all():
            return None
        if type(layer) is keras.layers.Reshape:
            shape = (*layer.target_shape[:-1], int(outputs.sum()))
            return copy_layer(layer, {"target_shape": shape})
        if not own_variables(layer):
            new = copy_layer(layer, {})
            copy_variables(layer, new)
            return new
        # Depthwise kernels; all other variables have an entry for each unit.
        changes: dict[str, Any] = {}
        axes: dict[str, tuple[int, int | None]] = {"kernel": (-2, None)}
        if type(layer) in _PRODUCERS:
            name, *places = _PRODUCERS[type(layer)]
            changes, axes = {name: int(outputs.sum())}, {"kernel": (places[0], places[1])}
        new = copy_layer(layer, changes)
        new.build((*self._shapes[layer][:-1], int(inputs.sum())))
        for source, target in zip(layer.variables, new.variables, strict=True):
            value = source.numpy()
            if source.name not in axes:
                value = value[outputs] if value.shape == outputs.shape else value
            else:
                of_inputs, of_outputs = axes[source.name]
                value = np.compress(inputs, value, axis=of_inputs)
                if of_outputs is not None:
                    value = np.compress(outputs, value, axis=of_outputs)
            target.assign(value)
        return new


def _is_plain(layer: Any) -> bool:
    """Whether a layer has a kernel of its own, for all of its inputs, and a bias at most."""
    return (
        getattr(layer, "groups", 1) == 1
        and getattr(layer, "quantization_mode", None) is None
        and not getattr(layer, "lora_enabled", False)
    )


def _powers(layer: Layer, order: int) -> Array:
    """The sum over each unit's incoming weights of `|w|^order`."""
    kernel = np.abs(layer.kernel.numpy().astype(np.float64)) ** order
    _, _, axis = _PRODUCERS[type(layer)]
    return np.asarray(np.moveaxis(kernel, axis, 0).reshape(kernel.shape[axis], -1).sum(axis=1))


def _components(roots: dict[Layer, Array]) -> list[list[Layer]]:
    """Layers, together with those with which they have units in common."""
    components: list[tuple[list[Layer], set[int]]] = []
    for layer, units in roots.items():
        layers, found = [layer], set(units.tolist())
        apart = []
        for others, theirs in components:
            if theirs.isdisjoint(found):
                apart.append((others, theirs))
            else:
                layers, found = others + layers, found | theirs
        components = [*apart, (layers, found)]
    return [layers for layers, _ in components]


def _check(
    model: keras.Model,
    fraction: float | None,
    threshold: float | None,
    importance: str,
    data: Any,
) -> None:
    check_model(model)
    if not is_graph(model):
        raise ValueError(
            f"`model` must be a Sequential or Functional model; received {model.name!r}, a "
            f"subclassed {type(model).__name__}. Make it by keras.Model(inputs, outputs)."
        )
    if isinstance(model, keras.Sequential) and model._functional is None:
        raise ValueError(
            f"`model` must know its input's shape; received {model.name!r}. Start it with a "
            "keras.Input."
        )
    if any(isinstance(layer, CompressedLayer) for layer in layer_paths(model).values()):
        raise ValueError(
            f"`model` must not be compressed; received {model.name!r}, which has packed weights. "
            "Remove units from the model that it was made from, then compress."
        )
    if (fraction is None) == (threshold is None):
        raise ValueError(
            f"`fraction` or `threshold` must be given; received fraction={fraction} and "
            f"threshold={threshold}. Give one of them."
        )
    for name, value in (("fraction", fraction), ("threshold", threshold)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, numbers.Real)):
            raise TypeError(f"`{name}` must be None or a number; received {value!r}.")
    if fraction is not None and not 0 < fraction < 1:
        raise ValueError(f"`fraction` must be above 0 and below 1; received {fraction}.")
    if threshold is not None and not 0 < threshold < float("inf"):
        raise ValueError(f"`threshold` must be above 0 and finite; received {threshold}.")
    if importance not in (*_ORDERS, _ACTIVATION):
        raise ValueError(
            f"`importance` must be one of {(*_ORDERS, _ACTIVATION)}; received {importance!r}."
        )
    if (data is not None) != (importance == _ACTIVATION):
        raise ValueError(
            f"`data` must be given with importance='activation', and only then; received data "
            f"{'missing' if data is None else 'given'} and importance={importance!r}."
        )
