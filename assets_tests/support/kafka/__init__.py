"""Readers and writers of topics and ledgers that bypass tidemill."""
