"""The person's device: a face compared with a server, what is agreed to, and all commands of a person.

It keeps what it must remember in `client.wallet`, takes faces from `client.faces`, and believes a server only as far as
`client.log` lets it. `client.cli` mounts its commands, and no other room calls it.
"""
