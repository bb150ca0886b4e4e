"""The steps of an update: initial model, extract, update, evaluate, deploy."""
