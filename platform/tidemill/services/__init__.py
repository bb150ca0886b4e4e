"""The services of `tidemill up`: definitions, health checks, and the supervisor that runs them."""
