"""Operators that launch Dagster runs."""
