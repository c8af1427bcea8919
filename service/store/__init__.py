"""Everything that is stored in Redis. No other package uses it."""
