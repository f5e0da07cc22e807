"""Run Tidemill's servers on a machine, and report their state: supervisor, doctor, status."""
