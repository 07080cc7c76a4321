"""Images that a web server has, read lazily: by range requests, each block once, into a cache of the host's.

Nothing is imported here: `file` costs a start what only URLs are worth.
"""
