"""Services bundled with tidemill for one machine: an Apache Kafka broker and PostgreSQL."""
