"""What changes a float model's weights or structure, before any format comes in."""

from tfcompress_ops.methods.averaging import average_weights
from tfcompress_ops.methods.distillation import Distiller
from tfcompress_ops.methods.ensembling import ensemble
from tfcompress_ops.methods.neurons import remove_neurons
from tfcompress_ops.methods.pruning import prune
from tfcompress_ops.methods.quantizing import quantize_aware

__all__ = ["Distiller", "average_weights", "ensemble", "prune", "quantize_aware", "remove_neurons"]
