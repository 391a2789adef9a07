"""From many images to embeddings: parts of a person's images, what becomes of each, and who does the work.

The organisation's node calls it (`client.node.preparing`). Nothing here knows who takes part in a federation.
"""
