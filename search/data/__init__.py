"""Images to learn from: data sets, their split, and where images are kept.

May import `config` and what is below it.
"""
