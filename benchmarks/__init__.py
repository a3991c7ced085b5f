"""Speed, measured beside peers and floors: `make bench`."""
