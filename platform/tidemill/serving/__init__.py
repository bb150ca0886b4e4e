"""The prediction server: serves the champion of every model, and swaps it without downtime.

It is assembled over ports; `bootstrap/server.py` passes it the settings and each of its processes
its adapters.
"""
