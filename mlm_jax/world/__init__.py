"""The embedded world: pictures that can be rendered, told, asked about and graded exactly.

scene (what there is) -> render (what it looks like) -> language (what is said of it) -> builder (a
TFDS set of it); grade reads pictures and captions back and says what is right.
"""
