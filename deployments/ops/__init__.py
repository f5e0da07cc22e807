"""What keeps a machine's part of the loop running, and says how it is: servers, supervisor,
doctor, status.
"""
