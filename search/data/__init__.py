"""Data to learn from: named data sets, files of images, people's own Datasets, and their split.

May import `config` and what is below it.
"""
