"""Bullpen's API objects: the models, their checks, YAML files with them."""
