"""Dagster for Airflow: a task materializes assets in at most one Dagster run and monitors it."""
