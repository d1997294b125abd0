"""Griffe extension of the API reference: links from the roles of docstrings, and settings classes as dataclasses."""

from __future__ import annotations

import re
from typing import Any

import griffe

_ROLE = re.compile(r":(func|class|meth|mod|data|attr|exc|obj):`(~?)([\w.]+)`")
_SETTINGS = "itm.core.settings.settings"


class Docstrings(griffe.Extension):
    """Makes ``:func:`name``` a link, and gives ``@settings`` classes the parameters of a dataclass."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Forget the exports of subpackages, so that each object is shown once, in its own module."""
        for module in pkg.modules.values():
            if module.is_init_module:
                module.exports = None
                self.on_package(pkg=module)

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the roles in the docstring of one object."""
        if obj.docstring is not None:
            obj.docstring.value = _ROLE.sub(lambda role: _link(obj, *role.groups()), obj.docstring.value)

    def on_class_instance(self, *, cls: griffe.Class, **_: Any) -> None:
        """Mark settings classes and named tuples, whose parameters griffe does not find, as dataclasses."""
        decorated = any(decorator.callable_path == _SETTINGS for decorator in cls.decorators)
        named_tuple = any(getattr(base, "canonical_path", base) == "typing.NamedTuple" for base in cls.bases)
        if decorated or named_tuple:
            value = griffe.ExprName("dataclasses.dataclass")
            cls.decorators.append(griffe.Decorator(value, lineno=cls.lineno, endlineno=cls.lineno))


def _link(obj: griffe.Object, kind: str, tilde: str, name: str) -> str:
    """Return a link to an object that is named absolutely, or relative to a scope around the docstring."""
    shown = name.rpartition(".")[2] if tilde else name
    if not name.startswith("itm."):
        scope: Any = obj
        while scope is not None and name.partition(".")[0] not in scope.members:
            scope = scope.parent
        if scope is None:  # an object of another library
            return f"`{shown}`"
        name = f"{scope.path}.{name}"
    if kind in ("data", "attr"):  # values without a docstring have no entry to link to
        return f'<autoref optional identifier="{name}"><code>{shown}</code></autoref>'
    return f"[`{shown}`][{name}]"
