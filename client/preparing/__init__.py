"""From many images to embeddings: parts of a person's images, what becomes of each, and who does the work.

The organisation's node calls it (`client.node.preparing`). Which people take part is kept here too; what they take part
in is the node's business.
"""
