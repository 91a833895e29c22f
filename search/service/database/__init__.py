"""Tables of the service's database and what reads and changes them, on SQLite or PostgreSQL.

One class for each kind of caller: `searches` for clients, `search_queue` for the dispatcher,
`architectures` for both; `transactions` is what they share. A change of the tables is a new file
in `migrations/versions/`. May import `service_config` and `problem_details`.
"""
