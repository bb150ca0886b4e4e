"""Audit: whether the store still holds what was committed, and whether it can be computed again."""
