"""The operator's side of the transparency log: order, storage, signatures, publication, and reading over the network.

`server.matching` writes into it and serves it, the dashboard reads it; it knows neither of them.
"""
