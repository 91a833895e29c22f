"""The folder of a search: what lies where, files that are whole or not there, locks.

May import `system` and `terminal`; no torch.
"""
