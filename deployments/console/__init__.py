"""Pages and charts for people who run a feed."""
