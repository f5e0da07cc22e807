"""What keeps the loop of one machine running and reports on it: servers, supervisor, status."""
