"""Sources that a feed reads, one file each."""
