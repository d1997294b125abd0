"""Settings as frozen dataclasses: pydantic checks them, and a mistake is one line that names the setting as typed."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from typing import Any, TypeVar, cast, dataclass_transform

from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass

from itm.core.errors import ItmError, SettingError, unknown

T = TypeVar("T")

# strict: a text is not taken for a number, nor true for 1
_CONFIG = ConfigDict(strict=True, arbitrary_types_allowed=True, extra="forbid")
# what was expected, by pydantic's name of the mistake; {} is filled with pydantic's own bounds
_EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "a text",
    "greater_than": "a number above {gt:g}",
    "greater_than_equal": "a number of at least {ge:g}",
    "less_than": "a number below {lt:g}",
    "less_than_equal": "a number of at most {le:g}",
    "finite_number": "a finite number",
    "list_type": "a list",
    "tuple_type": "a list",
    "too_short": "at least {min_length} values",
    "too_long": "at most {max_length} values",
    "dict_type": "settings by name",
}


@dataclass_transform(frozen_default=True, field_specifiers=(Field,))
def settings(prefix: str | Callable[[type], str]) -> Callable[[type[T]], type[T]]:
    """Make a class a frozen dataclass whose fields are checked against their annotations.

    Args:
        prefix: What stands before a field's name in errors, such as ``"scorer.itm"``; or a function of the class.

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
                path = prefix if isinstance(prefix, str) else prefix(type(self))
                raise as_setting_error(error, path, [field.name for field in fields(self)]) from None

        built.__init__ = checked
        return cast(type[T], built)

    return decorate


def as_setting_error(error: ValidationError, prefix: str, allowed: Iterable[str] = ()) -> ItmError:
    """Turn the first mistake that pydantic found into one line.

    Args:
        error: What pydantic raised.
        prefix: What stands before the setting's name; empty for none.
        allowed: The names of all settings, for a misspelt one.
    """
    mistake = error.errors(include_url=False)[0]
    context: Mapping[str, Any] = mistake.get("ctx", {})
    kind, found = mistake["type"], mistake["input"]
    if isinstance(context.get("error"), ItmError):  # raised by a check of ours, already in one line
        raised: ItmError = context["error"]
        return raised
    names = [str(part) for part in mistake["loc"] if isinstance(part, str) and not part.startswith("function-")]
    name = ".".join([prefix, *names[:1]] if prefix else names[:1])
    if kind in ("unexpected_keyword_argument", "unexpected_positional_argument"):
        known = [f"{prefix}.{word}" if prefix else word for word in allowed]
        return unknown("setting", name, known)
    if kind in ("missing_argument", "missing"):
        return SettingError(f"{name}: missing; set {name}=<value>.")
    if kind == "literal_error":
        return unknown(name, found, _words(context["expected"]))
    expected = _EXPECTED.get(kind)
    if expected is None:
        return SettingError(f"{name}={found}: {mistake['msg']}.")
    return SettingError(f"{name}={found}: expected {expected.format(**context)}.")


def _words(expected: str) -> list[str]:
    """The words of pydantic's text ``'a', 'b' or 'c'``."""
    return [word.strip().strip("'") for word in expected.replace(" or ", ", ").split(", ")]
