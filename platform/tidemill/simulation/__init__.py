"""Simulated event streams, and their production to Kafka, each event exactly once."""
