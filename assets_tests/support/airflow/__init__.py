"""A private Airflow, its DAG runs and its API."""
