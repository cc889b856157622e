"""The explorer: one interactive HTML page of an experiment's trade-off space, which needs no network."""
