"""How much of a server one visitor may have: connections, calls at once, calls a second, sessions. Bounds before trust.

The gateway of `server.fleet`, the matching service and the page's bridge ask here, from the first byte on; each bound
for one visitor is below the bound for all.
"""
