"""Render pages: from reports to HTML, each by one module with a function of the root."""
