"""Tasks that wait for what Dagster has."""
