"""Families: shapes of a base network in rising order of one parameter, and the one for each budget.

`kinds` holds one class per kind of family, `series` what the solver needs of any of them, `family`
the members within budgets. May import the files of `copycat`, but for its other rooms.
"""

from copycat.families.base_network import BaseNetwork
from copycat.families.family import Family, Measure, Member, members
from copycat.families.kinds import (
    Bottleneck,
    Copycat,
    CopycatOfAll,
    Depth,
    FamilyKind,
    MobileNetV2,
    PrunedShape,
    TemperedCopycat,
    UniformWidth,
    WideResNetWidth,
)

__all__ = [
    "BaseNetwork",
    "Bottleneck",
    "Copycat",
    "CopycatOfAll",
    "Depth",
    "Family",
    "FamilyKind",
    "Measure",
    "Member",
    "MobileNetV2",
    "PrunedShape",
    "TemperedCopycat",
    "UniformWidth",
    "WideResNetWidth",
    "members",
]
