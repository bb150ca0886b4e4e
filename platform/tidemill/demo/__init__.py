"""The demo: a prediction server, and a client that sends requests while windows are processed."""
