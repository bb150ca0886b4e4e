"""Validates bundles in isolation: a worker process forks one child per bundle."""
