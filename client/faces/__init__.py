"""From images to embeddings: folders of people, an aligned chip for each face, camera profiles, recognisers.

The person's device and the organisation's node share it, and so do measurements of privacy. It knows no server, no
wallet and no ledger.
"""
