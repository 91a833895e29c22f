"""What happens in a search, told: events in its folder, the terminal, the record in MLflow.

May import `results` and what is below it.
"""
