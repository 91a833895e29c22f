"""Networks as Python objects: copies of them, wrappers around them, what is used of torch inside.

Imports nothing of `pruning` but its errors.
"""
