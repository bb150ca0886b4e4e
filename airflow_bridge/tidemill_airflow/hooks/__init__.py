"""The way to Dagster: one connection, its questions and its errors."""
