"""Searches for settings: it is asked for them in batches, each trains on what is not held out, and the best make cells.

`read` reads the tables of a spec, `draw` makes trials of what is asked for, `study` asks (Optuna), `rungs` trains a
batch, `records` keeps what it reached, `_search` does all that until it is over, and gives the cells.
"""
