"""Messages between the parties: what is accepted, and how errors cross the wire."""
