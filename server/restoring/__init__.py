"""A database that is behind its log: what a start looks at, and what puts it right again.

Called when a matching service starts and while it runs, and by `intaglio-server database reconcile`.
"""
