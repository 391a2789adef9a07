"""`intaglio privacy`: what a promise means, whether the release code keeps it, and what it costs in accuracy.

For whoever decides about epsilon. `client.cli` mounts its commands, and no other room calls it.
"""
