"""What stages hand on as JSON: one frozen model per file, which pages, commands and cards read."""
