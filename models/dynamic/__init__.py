"""Layers that may stand in DPConv's place, one a file. The file's name is what --dynamic takes.

A file has a function `build(channels, deep_channels)`. It returns a module that takes the segmenter's deepest map x and
the reconstruction encoder's deepest map of the same images, (B, channels, h, w) and (B, deep_channels, h', w'), and
returns the term that SRS adds to x, (B, channels, h, w). With `NEEDS_ENCODER = False` in its file a layer gets None for
the encoder's map: the network holds no encoder and has no phase 1.
"""
