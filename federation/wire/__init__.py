"""Messages between the parties: what is accepted, and how errors cross the wire.

Every foreign byte of the services passes here. Device, matching service and bridge call it; `v1` is generated.
"""
