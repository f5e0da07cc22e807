"""Pages: reports in, HTML out. A page is one module with a function that takes the root."""
