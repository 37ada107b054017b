"""What a JobQueue's objects in the cluster are to be: pure, from its spec to plain dicts."""
