"""From what files are to the entry's choices, each with its reason."""
