"""Everything secret that one device holds, in a sealed file; its backup, which can only revoke; opening both.

`client.device` and the commands of the wallet itself call it. It never talks to a server.
"""
