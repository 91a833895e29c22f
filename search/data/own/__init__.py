"""Data of people's own: the Datasets that a callable of theirs returns.

May import the files of `data` beside this folder, and what those may import.
"""
