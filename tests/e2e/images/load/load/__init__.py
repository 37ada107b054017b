"""The load of the end-to-end tests: jobs that take a while, and say where and when they ran."""
