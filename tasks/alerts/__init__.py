"""Alarms: what a person should know, sent once to each address, and once more when it ends.

In: the reports of monitor, retrain and promote, the last refresh, the feed's events, the journal of
retrainings, and what the caller adds of processes and service. Out:
TIDEMILL_HOME/alerts/alerts.db with open alarms and the outbox. Promised: an alarm that was found is
in the outbox before anything is sent; a killed process loses none; an address that does not answer
gets it later and delays no other.
"""
