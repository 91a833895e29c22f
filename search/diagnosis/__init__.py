"""What `espalier doctor` looks at: packages, the machine, folders, network, and starts on trial.

Each file holds checks, which return findings and change nothing. May import every room of
`search` but `commands` and `cli`.
"""
