"""The services of `tidemill up`: which they are, their health, and the supervisor that runs them."""
