"""Make charts and pages for people from the reports of the stages; compute no score."""
