"""Searches as they wait, run and end: dispatcher, launchers of processes, adoption, webhooks.

May import `database`, `access` and the files beside the rooms; knows no route.
"""
