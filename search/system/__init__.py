"""The machine and this process: cores, memory, exit statuses, reports of unforeseen errors.

Imports nothing of `search`.
"""
