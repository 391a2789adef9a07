"""The public rules at a server: the file that it follows while it runs, whom they register, the commands that write it.

`server.matching` decides by them and signs as they register it; the pages show them. It knows neither.
"""
