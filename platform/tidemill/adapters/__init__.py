"""Implementations of the ports: Kafka, files, S3, MLflow, child processes, memory."""
