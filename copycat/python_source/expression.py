"""Nested Python expressions, laid out on lines of their own where they are long."""

from __future__ import annotations

from dataclasses import dataclass

_LINE = 88


@dataclass(frozen=True)
class Bracketed:
    """Such as "nn.Sequential(", the arguments, ")".

    items: expressions, each with what stands before it, such as "conv1=".
    """

    opening: str
    items: tuple[tuple[str, Expression], ...]
    closing: str


Expression = str | Bracketed


def render(expression: Expression, indent: int, used: int) -> str:
    """Source that goes on a line indented by `indent`, of which `used` further columns are taken.

    Broken expressions end in a comma.
    """
    flat = _flat(expression)
    if isinstance(expression, str) or indent + used + len(flat) < _LINE:
        return flat
    inner = indent + 4
    lines = [
        f"{' ' * inner}{prefix}{render(item, inner, len(prefix))},"
        for prefix, item in expression.items
    ]
    return "\n".join([expression.opening, *lines, " " * indent + expression.closing])


def _flat(expression: Expression) -> str:
    if isinstance(expression, str):
        return expression
    inside = ", ".join(prefix + _flat(item) for prefix, item in expression.items)
    return f"{expression.opening}{inside}{expression.closing}"
