"""What torch.einsum multiplies, read off its equation."""

from __future__ import annotations

from collections.abc import Sequence


def einsum_products(equation: str, ranks: Sequence[int]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """A name per axis of each operand, and the products it is made of, as the names of their axes.

    ranks: numbers of axes of the operands. Operands are multiplied from left to right; each
    product has as many multiply-adds as the sizes of its axes multiply to, and sums over one of
    them at least. One that sums over nothing is an elementwise one, and left out.
    """
    left, arrow, right = equation.replace(" ", "").partition("->")
    operands = left.split(",")
    spread = [rank - len(o.replace("...", "")) for o, rank in zip(operands, ranks, strict=True)]
    ellipsis = "".join(chr(ord("α") + i) for i in range(max(spread, default=0)))
    names = [
        operand.replace("...", ellipsis[len(ellipsis) - number :])
        for operand, number in zip(operands, spread, strict=True)
    ]
    everything = "".join(names)
    output = right.replace("...", ellipsis) if arrow else ellipsis
    if not arrow:
        output += "".join(name for name in everything if everything.count(name) == 1)
    products, so_far = [], set(names[0])
    for number, name in enumerate(names[1:], 1):
        both, wanted = so_far | set(name), set(output).union(*names[number + 1 :])
        if both - wanted:
            products.append("".join(sorted(both)))
        so_far = both & wanted
    return tuple(names), tuple(products)
