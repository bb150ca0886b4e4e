"""Bundles are proven where a crash does no harm: a helper process forks a child for each."""
