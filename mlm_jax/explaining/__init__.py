"""Why a word was written: maps over what is seen and heard, and how far they can be trusted.

asked.py      what is explained: floats that are seen, a text, and which tokens are a word
attention.py  weights that were recorded: of each layer and head, and rolled out to the patches
gradients.py  gradient x attention, gradient x input, integrated gradients
occlusion.py  what a word loses where a window is blanked
methods.py    all of these by name, as maps of the size of what is seen
spoken.py     which word of a caption speaks of which object of the embedded world, and its pixels
measures.py   pointing, overlap, deletion and insertion, randomised weights; with intervals
colours.py    maps to colours; page.py: what is looked at
"""
