"""The models, one file each, by family."""
