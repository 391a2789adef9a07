"""The person's page over HTTP, and the bridge from what it posts to the matching service's gRPC.

`server.cli` mounts its commands, and no other room calls it.
"""
