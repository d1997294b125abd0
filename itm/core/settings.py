"""Settings as frozen dataclasses: pydantic checks them, and a mistake is one line that names the setting as typed."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from types import MappingProxyType
from typing import Annotated, Any, Literal, TypeVar, cast, dataclass_transform

from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass

from itm.core.errors import ItmError, SettingError, unknown

T = TypeVar("T")

Count = Annotated[int, Field(ge=1)]
"""A whole number of at least 1."""
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
"""A finite number above 0."""
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
"""A finite number of at least 0."""
Share = Annotated[float, Field(gt=0, lt=1)]
"""A number between 0 and 1, both excluded."""
OnError = Literal["stop", "skip"]
"""Handling of an image, or a row of a table, that cannot be read."""

# strict: "1" and true are not taken for the number 1
_CONFIG = ConfigDict(strict=True, arbitrary_types_allowed=True, extra="forbid")
_LONGEST = 80  # characters of a value in an error
# the expected value, by pydantic's name of the mistake; pydantic's bounds fill the braces
_EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "a text",
    "string_too_short": "a text of at least {min_length} character(s)",
    "greater_than": "a number above {gt:g}",
    "greater_than_equal": "a number of at least {ge:g}",
    "less_than": "a number below {lt:g}",
    "less_than_equal": "a number of at most {le:g}",
    "finite_number": "a finite number",
    "list_type": "a list",
    "tuple_type": "a list",
    "sequence_str": "a list",
    "too_short": "a list of {min_length} or more values",
    "too_long": "at most {max_length} values",
    "dict_type": "values by name",
    "mapping_type": "values by name",
    "is_instance_of": "{class}",
    "dataclass_type": "{class_name}",
    "dataclass_exact_type": "{class_name}",
}


@dataclass_transform(frozen_default=True, field_specifiers=(Field,))
def settings(prefix: str) -> Callable[[type[T]], type[T]]:
    """Make a class a frozen dataclass whose fields are checked against their annotations.

    The description of a field, where it has one, states the expected value in errors.

    Args:
        prefix: Prefix of a field's name in errors, such as ``"scorer.itm"``. A field's name in braces stands for its
            value, as in ``"zoo.{name}"``.

    Returns:
        A decorator. Building the class raises :class:`~itm.core.errors.SettingError` for the first wrong field:
        ``scorer.itm.lr=-1: expected a number above 0.``
    """

    def decorate(cls: type[T]) -> type[T]:
        built: Any = pydantic_dataclass(frozen=True, config=_CONFIG)(cls)
        build = built.__init__

        @functools.wraps(build)
        def checked(self: Any, *args: Any, **values: Any) -> None:
            try:
                build(self, *args, **values)
            except ValidationError as error:
                names = [field.name for field in fields(self)]
                given = dict(zip(names, args, strict=False)) | values
                described = {name: field.description for name, field in built.__pydantic_fields__.items()}
                raise as_setting_error(error, prefix.format_map(defaultdict(str, given)), names, described) from None

        built.__init__ = checked
        return cast(type[T], built)

    return decorate


def as_setting_error(
    error: ValidationError,
    prefix: str,
    allowed: Iterable[str] = (),
    described: Mapping[str, str | None] = MappingProxyType({}),
) -> ItmError:
    """Turn the first mistake that pydantic found into one line.

    Args:
        error: The error that pydantic raised.
        prefix: Prefix of the setting's name; empty for none.
        allowed: Names of all settings in their order, for misspelt names and for values given by position.
        described: Description of the expected value by setting, for those that have one.
    """
    mistake = error.errors(include_url=False)[0]
    context: Mapping[str, Any] = mistake.get("ctx", {})
    kind, found = mistake["type"], _one_line(mistake["input"])
    if isinstance(context.get("error"), ItmError):  # raised by a check of ours, already in one line
        raised: ItmError = context["error"]
        return raised
    order = list(allowed)
    field = _field(mistake["loc"], order)
    name = ".".join(part for part in (prefix, field) if part)
    if kind == "unexpected_positional_argument":
        return SettingError(f"{prefix}: {found} is one value too many; there are {len(order)} settings.")
    if kind == "unexpected_keyword_argument" and not order:
        return SettingError(f"{name}: not known; {prefix} has no settings.")
    if kind == "unexpected_keyword_argument":
        return unknown("setting", name, [f"{prefix}.{word}" if prefix else word for word in order])
    if kind in ("missing_argument", "missing"):
        return SettingError(f"{name}: missing; set {name}=<value>.")
    if kind == "literal_error":
        return unknown(name, found, _words(context["expected"]))
    description = described.get(field)
    if description is not None:
        return SettingError(f"{name}={found}: expected {description}, found {type(mistake['input']).__name__}.")
    expected = _EXPECTED.get(kind)
    if expected is None:
        return SettingError(f"{name}={found}: {mistake['msg']}.")
    return SettingError(f"{name}={found}: expected {expected.format(**context)}.")


def _field(location: Sequence[str | int], order: Sequence[str]) -> str:
    """Return the name of the field at a location; a value given by position is located by its number."""
    first, *_ = [*location, ""]
    if isinstance(first, int):
        return order[first] if first < len(order) else ""
    return first


def _one_line(found: object) -> str:
    text = " ".join(str(found).split())
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def _words(expected: str) -> list[str]:
    """Return the words of pydantic's text ``'a', 'b' or 'c'``."""
    return [word.strip().strip("'") for word in expected.replace(" or ", ", ").split(", ")]
