"""The folder of a search: the names of its files, atomic writing, and locks.

May import `system` and `terminal`; no torch.
"""
