"""`tidemill`, for people: one file per noun, results as text or JSON."""
