"""For users' tests: the pytest fixture `bullpen_redis`."""
