"""Processes that tests start, kill and wait for."""
