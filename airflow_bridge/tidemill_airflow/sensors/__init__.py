"""Sensors that wait for a materialization in Dagster."""
