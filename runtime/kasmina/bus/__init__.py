"""Messages between processes: clients, publishers, handlers, ordering and dead letters."""
