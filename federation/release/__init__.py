"""What may be served: the signed manifest of a release, and the bundle that carries it with its audit and papers.

Devices and servers ask it before they use a release; rules and the organisation's page read manifests.
"""
