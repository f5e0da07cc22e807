"""The routes, one file for each resource; each has `add_routes(app, parts)`."""
