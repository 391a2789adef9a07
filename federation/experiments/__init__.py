"""What we measure about our own promises: canaries and refusals against the code that releases, wolves, the frontier.

Nothing that serves or trains calls it; the commands `intaglio privacy` and the examples do.
"""
