"""Whom the operator lets in: certificates that open the port, and tickets with which somebody enrols once.

Neither says who somebody is to the matching: the service knows devices by their own keys.
"""
