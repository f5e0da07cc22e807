"""A challenger takes over by steps, judged on the errors of its forecasts, or goes back.

In: the rollout in `TIDEMILL_HOME/registry/<dataset>/rollout.jsonl`, both releases, the published
rows, what the service has recorded. Out: a line of that journal for each move, the champion.
Promised: the weight never rises without evidence; a challenger that is worse goes back; the verdict
follows from the rows alone, however often it is looked for.
"""
