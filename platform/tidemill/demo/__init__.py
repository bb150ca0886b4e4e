"""The demo: a prediction server and a client that loads it while windows are learned."""
