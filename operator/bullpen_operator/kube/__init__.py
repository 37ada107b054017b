"""How the operator talks to the API server: its objects as plain dicts, who leads, what it tells people."""
