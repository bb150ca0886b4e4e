"""Streams that come with tidemill, and how one is produced: each event once."""
