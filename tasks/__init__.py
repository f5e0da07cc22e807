"""Everything that computes. Knows neither Prefect nor BentoML."""
