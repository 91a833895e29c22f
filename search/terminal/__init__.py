"""Text on terminals: tables, lengths of time, characters that cannot be shown.

Imports nothing of `search`.
"""
