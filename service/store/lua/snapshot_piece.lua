#!lua flags=allow-oom
-- A snapshot lets the log be trimmed: it is written also when memory is full.
--@include put_piece
