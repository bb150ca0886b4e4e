"""What tests of several folders share; a helper of one folder is beside its tests."""
