"""Layers that can replace DPConv, one per file. --dynamic takes the name of the file.

Each file defines `build(channels, deep_channels)`. It returns a module with two inputs, the deepest maps of the
segmenter and of the reconstruction encoder for the same images, x (B, channels, h, w) and deep (B, deep_channels, h',
w'). Its result is the term that SRS adds to x, (B, channels, h, w). `NEEDS_ENCODER = False` in the file marks a layer
that does not use the encoder: the network has no encoder and requires no phase 1, and both inputs are x.

Optional methods: `code(deep)`, the numbers (B, K) computed from each image; `with_code(x, code)`, the resulting term
(for evaluation.py --code); `kernels(deep)` and `kernels_of(code)`, the kernels (B, C, C, k, k) (for report and
TensorBoard).
"""
