"""Which work comes next and where it runs: Ray, the Optuna study, budgets of compute, families.

May import `tracking` and what is below it. Only `ray_executor`, `ray_node` and `ray_processes`
import Ray.
"""
