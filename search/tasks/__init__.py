"""What counts as good: the loss that a network learns by and the score that it is chosen by.

May import `data`, `models` and what is below them; `score` needs no torch.
"""
