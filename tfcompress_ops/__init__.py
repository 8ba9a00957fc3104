"""tfcompress_ops: compressed Keras models that really run faster inside TensorFlow.

A *format* says how one weight matrix is stored and which op multiplies by it, a *layer* says where
a matrix sits in a model:

    import tfcompress_ops as tfc

    small = tfc.compress(model, tfc.Int8())
    print(tfc.report(model, small))
    small.save("small.keras")
"""

import importlib as _importlib
import sys as _sys
from typing import TYPE_CHECKING, Any

from tfcompress_ops import _loader
from tfcompress_ops._version import __version__

if TYPE_CHECKING:
    from tfcompress_ops import (
        callbacks,
        constraints,
        formats,
        kernels,
        layers,
        ops,
        quantizers,
        schedules,
    )
    from tfcompress_ops.compression import compress, decompress
    from tfcompress_ops.formats import Binary, Format, Int8, Sparse, Ternary
    from tfcompress_ops.linking import pack_signs
    from tfcompress_ops.methods import (
        Distiller,
        average_weights,
        ensemble,
        prune,
        quantize_aware,
        remove_neurons,
    )
    from tfcompress_ops.reports import Report, report
    from tfcompress_ops.search import search_report

# Where each public name lives; one without a colon is a module.
_HOMES = {
    "Binary": "formats:Binary",
    "Distiller": "methods:Distiller",
    "Format": "formats:Format",
    "Int8": "formats:Int8",
    "Report": "reports:Report",
    "Sparse": "formats:Sparse",
    "Ternary": "formats:Ternary",
    "average_weights": "methods:average_weights",
    "callbacks": "callbacks",
    "constraints": "constraints",
    "compress": "compression:compress",
    "decompress": "compression:decompress",
    "ensemble": "methods:ensemble",
    "formats": "formats",
    "kernels": "kernels",
    "layers": "layers",
    "ops": "ops",
    "pack_signs": "linking:pack_signs",
    "prune": "methods:prune",
    "quantize_aware": "methods:quantize_aware",
    "quantizers": "quantizers",
    "remove_neurons": "methods:remove_neurons",
    "report": "reports:report",
    "schedules": "schedules",
    "search_report": "search:search_report",
}

__all__ = [
    "Binary",
    "Distiller",
    "Format",
    "Int8",
    "Report",
    "Sparse",
    "Ternary",
    "__version__",
    "average_weights",
    "callbacks",
    "compress",
    "constraints",
    "decompress",
    "ensemble",
    "formats",
    "kernels",
    "layers",
    "ops",
    "pack_signs",
    "prune",
    "quantize_aware",
    "quantizers",
    "remove_neurons",
    "report",
    "schedules",
    "search_report",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    _loader.load()
    module, _, attribute = _HOMES[name].partition(":")
    value = _importlib.import_module(f"{__name__}.{module}")
    globals()[name] = getattr(value, attribute) if attribute else value
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})


# Importing the package loads the ops and registers the layers, or raises one ImportError that says
# what to do. Only the command line comes first and imports what it needs when it needs it: its help
# is quick, and `tfcompress info` explains an installation that does not load.
if "tfcompress_command" not in _sys.modules:
    _loader.load()
    for _name in _HOMES:
        __getattr__(_name)
