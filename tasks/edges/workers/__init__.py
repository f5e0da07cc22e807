"""Independent jobs on threads, processes or a cluster."""
