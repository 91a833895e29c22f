"""Learnable gates on channels and on whole structures, and what they decide.

May import `gates`, `structure_removal`, `regularizers` and what is below them.
"""
