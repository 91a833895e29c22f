"""An architecture as a folder that anyone can open: architecture.json and weights.safetensors.

`document` is what the JSON says, `trust` which builders it may name, `folder` saving and loading,
`whole_folder` how a folder comes to be there whole or not at all. May import the files of
`copycat`, but for its other rooms.
"""

from copycat.architecture.document import Architecture
from copycat.architecture.folder import load, read, save, verify
from copycat.architecture.trust import TRUSTED_BUILDERS

__all__ = ["TRUSTED_BUILDERS", "Architecture", "load", "read", "save", "verify"]
