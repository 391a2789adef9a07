"""How `intaglio` and `intaglio-server` are told what to do: settings, exit codes, help, completion, signing keys.

Both programs use it, and they may not know each other. It is the only room here that reads files and the environment;
none of its neighbours may import it.
"""
