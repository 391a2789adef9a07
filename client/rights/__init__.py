"""Under which conditions a device says anything, what it believes of the log, and what an owner may do without a face.

See, take along, end and erase what a server holds: each is signed by the device and believed behind the log's entry.
`client.device` calls it, and is what needs a face.
"""
