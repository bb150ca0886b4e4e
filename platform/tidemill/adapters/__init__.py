"""What stands behind the ports: Kafka, files, memory, child processes."""
