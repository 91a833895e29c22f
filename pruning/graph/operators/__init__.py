"""How each ATen operator moves channel labels, and what it costs.

`RULES` maps an operator to its rule. An operator without a rule pins every label it touches,
so an unknown operator makes the graph more careful, never wrong.
"""

from pruning.graph.operators import (
    axiswise,
    contractions,
    elementwise,
    normalization,
    quantization,
    rearrangements,
    shapes,
    spatial,
)
from pruning.graph.operators.rule import Call, Rule, Tracing

RULES: dict[str, Rule] = {
    **axiswise.RULES,
    **contractions.RULES,
    **elementwise.RULES,
    **normalization.RULES,
    **quantization.RULES,
    **rearrangements.RULES,
    **shapes.RULES,
    **spatial.RULES,
}

__all__ = ["RULES", "Call", "Rule", "Tracing"]
