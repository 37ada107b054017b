"""Which Redis a JobQueue uses, as whom, and how well that Redis is set up."""
