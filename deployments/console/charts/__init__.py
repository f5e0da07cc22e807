"""Draw charts: from the figures of a report to an Image. No other package draws."""
