"""Models of the tests, on Kafka and in memory, and checks of what they stored."""
