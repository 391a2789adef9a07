"""The plan of a private sum, what it promises, what it is charged, and how a promise is measured from below.

Nodes, the coordinator and everything that trains or measures call it. Numbers that others choose are bounded here.
"""
