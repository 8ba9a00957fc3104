"""Command-line options of the registered formats, derived from the fields of their dataclasses."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer

from tfcompress_ops import formats
from tfcompress_ops.cli.console import CommandError


@dataclasses.dataclass(frozen=True)
class _Field:
    """One field of one format's dataclass: its type, default and description."""

    format_name: str
    hint: Any
    default: Any
    description: str


def with_format_options(function: Callable[..., None]) -> Callable[..., None]:
    """Adds one option to a command for every field of every registered format.

    A field that is a bool in all formats that have it becomes a `--name / --no-name` flag, any
    other an option that takes text.

    Args:
        function: a command that takes the options as its argument `options: dict[str, Any]`.

    Returns:
        A command for typer, in whose signature the options stand in the place of `options`.
    """
    parameters = [
        parameter
        for name, parameter in inspect.signature(function, eval_str=True).parameters.items()
        if name != "options"
    ]
    fixed = {parameter.name for parameter in parameters}
    added = {name: found for name, found in _fields().items() if name not in fixed}

    def run(**values: Any) -> None:
        given = {name: values.pop(name) for name in added}
        options = {name: value for name, value in given.items() if value is not None}
        function(**values, options=options)

    parameters += [_parameter(name, found) for name, found in added.items()]
    run.__name__ = function.__name__
    run.__doc__ = function.__doc__
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return run


def make_format(name: str, options: Mapping[str, Any]) -> formats.Format:
    """Makes a format from its name and the options of the command line.

    Args:
        name: the name that it is registered under.
        options: field name to bool, or to text, which is read by the field's type.

    Raises:
        CommandError: if there is no such format or option, or the format refuses a value.
    """
    if name not in formats.names():
        raise CommandError(f"--format must be one of {', '.join(formats.names())}; got {name!r}.")
    cls = type(formats.get(name))
    hints = typing.get_type_hints(cls)
    known = [field.name for field in _options_of(cls)]
    for option in options:
        if option not in known:
            has = ", ".join(_flag(field) for field in known) or "none"
            raise CommandError(f"Format {name} has no {_flag(option)}; its options: {has}.")
    values = {option: _read(option, text, hints[option]) for option, text in options.items()}
    try:
        return cls(**values)
    except (TypeError, ValueError) as error:
        raise CommandError(f"Format {name} refuses these options: {error}") from error


def _options_of(cls: type[formats.Format]) -> list[dataclasses.Field[Any]]:
    """The fields that a user sets, not those that another step of the package does."""
    return [field for field in dataclasses.fields(cls) if not field.metadata.get("internal")]


def _fields() -> dict[str, list[_Field]]:
    """The fields of all formats by name."""
    found: dict[str, list[_Field]] = {}
    for format_name in formats.names():
        cls = type(formats.get(format_name))
        hints = typing.get_type_hints(cls)
        descriptions = _descriptions(inspect.getdoc(cls) or "")
        for field in _options_of(cls):
            entry = _Field(
                format_name, hints[field.name], field.default, descriptions.get(field.name, "")
            )
            found.setdefault(field.name, []).append(entry)
    return found


def _parameter(name: str, fields: list[_Field]) -> inspect.Parameter:
    is_flag = all(field.hint is bool for field in fields)
    declaration = f"{_flag(name)}/--no-{name.replace('_', '-')}" if is_flag else _flag(name)
    # Formats may mean different things by a name, such as a threshold.
    described: dict[str, list[_Field]] = {}
    for field in fields:
        described.setdefault(field.description, []).append(field)
    parts = [
        f"{description} ({'; '.join(_choices(field) for field in alike)})".strip()
        for description, alike in described.items()
    ]
    option = typer.Option(
        declaration, help="\n\n".join(parts), rich_help_panel="Options of the formats"
    )
    annotation: Any = bool | None if is_flag else str | None
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[annotation, option],
    )


def _choices(field: _Field) -> str:
    values = [str(value) for value in _literals(field.hint)]
    choices = f"{' | '.join(values)}, " if values else ""
    return f"{field.format_name}: {choices}default {_written(field.default)}"


def _written(value: Any) -> str:
    """A value as it is typed: none, no, 16x1."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _literals(hint: Any) -> list[Any]:
    """The values that a Literal type, or a union that holds one, allows."""
    if typing.get_origin(hint) is typing.Literal:
        return list(typing.get_args(hint))
    return [value for part in _alternatives(hint) for value in _literals(part)]


def _alternatives(hint: Any) -> tuple[Any, ...]:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return typing.get_args(hint)
    return ()


def _read(name: str, value: Any, hint: Any) -> Any:
    """Reads an option's text as the field's type wants it; text stays text where it may."""
    if not isinstance(value, str):
        return value
    kinds = _alternatives(hint) or (hint,)
    if str in kinds or _literals(hint):
        return None if value == "none" and type(None) in kinds else value
    # "16x1" is how shapes are written.
    text = re.sub(r"(?<=\d)x(?=\d)", ",", value)
    try:
        return ast.literal_eval(text.capitalize() if text in ("none", "true", "false") else text)
    except (SyntaxError, ValueError) as error:
        raise CommandError(f"{_flag(name)} must be a number or numbers; got {value!r}.") from error


def _descriptions(docstring: str) -> dict[str, str]:
    """First sentences of a Google-style Args section, by argument."""
    section = re.search(r"^Args:\n((?:[ ]{4}.*\n?|\n)+)", docstring, re.MULTILINE)
    if section is None:
        return {}
    entries = re.findall(r"^ {4}(\w+): ((?:.*)(?:\n {8}.*)*)", section[1], re.MULTILINE)
    return {
        name: re.split(r"(?<=\.)\s", " ".join(text.split()), maxsplit=1)[0]
        for name, text in entries
    }
