"""Charts: figures of a report in, an Image out. Only here is anything drawn."""
