"""Prediction servers in processes of their own, and their clients, honest and malicious."""
