"""The wizard: looks into files that nobody has described, and writes the dataset's entry, each
choice with its reason beside it.

Comes in: files, and what their owner says about them. Goes out: an entry under `datasets` in
params.yaml that every stage accepts as it is, and the questions that the files alone do not answer.
Promised: what it says it saw is in the file; what it cannot read is refused with file, row and the
way out; the numbers it proposes let the chain end within about a minute of training on two cores.
"""
