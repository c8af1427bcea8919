"""The command line's HTTP clients."""
