"""A stored network as a short Python module that needs only torch.

`module` is the whole text, `classes` the classes in it, `class_source` where their methods come
from, `expression` and `layer_source` the expression that makes every layer. May import
`architecture` and the files of `copycat`.
"""

from copycat.python_source.module import to_python

__all__ = ["to_python"]
