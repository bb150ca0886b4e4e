"""The servers around tidemill, started on free ports, and a proxy that breaks connections."""
