"""The wizard: inspects files and writes the dataset's entry, each choice with its reason.

Inputs: files, and what their owner answers. Outputs: an entry under `datasets` in params.yaml that
every stage accepts unchanged, and the questions that the files alone do not answer.

Promise: what it reports is in the files; what it cannot read is refused with file, row and the way
out; with the numbers that it proposes, training takes about a minute on two cores.
"""
