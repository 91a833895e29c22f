"""Experiments of papers: what each runs, its figures and tables, and how they compare.

An experiment is a TOML file in experiments/, a folder per paper. May import every room below the
command line but the service.
"""
