"""What tidemill runs on this machine by itself: an Apache Kafka broker and a PostgreSQL server."""
