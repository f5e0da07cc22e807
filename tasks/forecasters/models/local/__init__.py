"""Models of one series each, with parameters estimated by a library."""
