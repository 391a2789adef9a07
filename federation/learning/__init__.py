"""The two recipes, how good what they give is, and what coordinator and nodes say to each other in a run.

Nodes, the coordinator, audits and experiments call it. Noise and charge are planned one floor below, in
`federation.privacy`.
"""
