"""`python -m deployments.cli`: `tidemill` without an installed script."""

from deployments.cli.app import app

if __name__ == "__main__":
    app()
