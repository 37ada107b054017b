"""The two kinds of process of ``bullpen worker``: a supervisor that runs no handler, and its children that do."""
