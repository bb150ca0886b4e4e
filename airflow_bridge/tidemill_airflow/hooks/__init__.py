"""The client of Dagster: connection, requests and errors."""
