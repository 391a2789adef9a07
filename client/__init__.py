"""The organisation's node and the person's device."""
