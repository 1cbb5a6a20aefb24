"""An extension of Griffe, for the site: doctests in docstrings become code, and fields show what their comments say."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import Any

import griffe

EXAMPLE = re.compile(r"^>>> .*?(?=\n\s*\n|\Z)", re.MULTILINE | re.DOTALL)


class Objects(griffe.Extension):
    """What is changed before it is shown."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Put a fence around every example."""
        if obj.docstring is not None:
            text = re.sub(r"  # doctest: \+\w+", "", obj.docstring.value)
            obj.docstring.value = EXAMPLE.sub(lambda found: f"```pycon\n{found[0]}\n```", text)

    def on_class(self, *, cls: griffe.Class, **_: Any) -> None:
        """List a class's fields in its docstring."""
        fields = [f"\n    {field.name}: {meaning}" for field, meaning in described(cls)]
        if fields and cls.docstring is not None and "Attributes:" not in cls.docstring.value:
            cls.docstring.value += f"\n\nAttributes:{''.join(fields)}"


def described(cls: griffe.Class) -> Iterator[tuple[griffe.Attribute, str]]:
    """The public fields that say what they are: in the comment behind them, or, of a recipe, in their own words."""
    for name, field in cls.members.items():
        if not isinstance(field, griffe.Attribute) or name.startswith("_") or "property" in field.labels:
            continue
        if isinstance(field.value, griffe.ExprCall) and str(field.value.function) == "_setting":
            default, _rule, meaning = field.value.arguments[:3]
            cls.parameters[name].default = field.value = default
            words = ast.literal_eval(meaning) if isinstance(meaning, str) else str(meaning)[2:-1]
            yield field, re.sub(r" ?\(?\{[^}]*\}\)?", "", words)
        elif field.endlineno is not None and (comment := field.lines[-1].partition("  # ")[2]):
            yield field, comment
