"""Who may do what: tokens, checks of every request, limits on connections, settings, audit log.

May import `database` and the files beside the rooms; knows no route.
"""
