"""The coordinator as something that runs for years: its processes, the door for members' calls, members, certificates.

It starts Flower and lets `server.coordinator` do the sums. The dashboard reads members and certificates here.
"""
