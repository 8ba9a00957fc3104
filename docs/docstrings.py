"""An extension of griffe: Keras' section "Example:" is what Google's style calls "Examples:"."""

import re
from typing import Any

import griffe


class KerasSections(griffe.Extension):
    """Renames the section before docstrings are parsed."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Sees each object after it was found."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(
                r"^(\s*)Example:$", r"\1Examples:", obj.docstring.value, flags=re.MULTILINE
            )
