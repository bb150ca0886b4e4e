"""Tasks that let Dagster work."""
