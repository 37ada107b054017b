"""What end-to-end tests are made of: images, plain objects, and what became of the jobs.

Nothing here knows who made the cluster.
"""
