"""A running Dagster, its API and its event log."""
