"""Dagster for Airflow: a DAG's task materializes assets, follows the run, and never asks twice."""
