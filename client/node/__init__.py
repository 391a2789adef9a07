"""The organisation's node: joining a federation, its people, its part of every secure sum, and its two ledgers.

Flower starts `app`, and `start` starts Flower behind the organisation's own guard. `client.cli` mounts its commands;
`client.privacy` charges its ledger.
"""
