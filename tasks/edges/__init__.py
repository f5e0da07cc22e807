"""The only modules that touch files, processes, databases, the network and the environment."""
