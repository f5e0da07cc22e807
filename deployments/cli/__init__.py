"""The commands of `tidemill`, for people: one module per noun, results as text or JSON."""
