"""Everything that is kept in Redis: the only package that speaks to it."""
