"""Tables of the service's database and what reads and changes them, on SQLite or PostgreSQL.

May import `service_config` and `problem_details`; knows nothing of HTTP, tokens' use or processes.
"""
