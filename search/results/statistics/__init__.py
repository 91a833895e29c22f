"""What chance does to differences: paired tests, intervals, contrasts that were fixed beforehand.

May import the room of results below it, search.trials and search.tasks.score; no torch.
"""
