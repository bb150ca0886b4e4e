"""The prediction server: serves the champion of every model, and swaps it without downtime."""
