"""Presentation attacks: levels of looking for a picture before a camera, and how a face in a film is judged.

Says what rules and assertions mean by a level, and how a device looks for an attack. How often that works is
`federation.audit`'s question.
"""
