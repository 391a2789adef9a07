"""How an organisation joins and lives on in a federation, and what may pass between its node and the coordinator. Pure.

Both doors call it: the guard of the node and the gateway of the coordinator, with the folders behind them.
"""
