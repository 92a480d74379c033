"""Layers that may stand in DPConv's place, one a file. The file's name is what --dynamic takes.

A file has a function `build(channels, deep_channels)`. It returns a module that takes the segmenter's deepest map x and
the reconstruction encoder's deepest map of the same images, (B, channels, h, w) and (B, deep_channels, h', w'), and
returns the term that SRS adds to x, (B, channels, h, w). With `NEEDS_ENCODER = False` in its file a layer does not read
the encoder's map: the network holds no encoder and needs no phase 1, and the layer gets x twice.

Optional: `code(deep)`, the numbers (B, K) that a layer makes of each image; `with_code(x, code)`, the term that they
give (evaluation.py --code); `kernels(deep)` and `kernels_of(code)`, the kernels (B, C, C, k, k) (report, TensorBoard).
"""
