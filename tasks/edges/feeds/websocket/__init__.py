"""A WebSocket as a feed: connection, order of its records, and what REST fills in."""
