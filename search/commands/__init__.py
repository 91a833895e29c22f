"""The commands of the command line, one file each, imported when they are asked for.

May import everything in `search`; what takes seconds to import, by `pruning.lazy_imports`.
"""
