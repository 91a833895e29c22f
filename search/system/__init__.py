"""The machine and this process: cores, memory, exit statuses, errors that nobody foresaw.

Imports nothing of `search`.
"""
