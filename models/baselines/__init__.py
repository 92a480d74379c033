"""Other segmentation networks, one per file. --variant takes the name of the file, which is imported when building.

Each file defines `build()`. It returns a module that maps images (B, 1 or 3, H, W), H and W at least 8, to logits (B,
1, H, W). `models.any_size.AnySize` adapts a network that requires three channels or sides of a certain multiple. These
networks have no phase 1 and are trained by train_seg.py alone.

With `NEEDS_ENCODER = True` in the file, `build(encoder)` gets the encoder of phase 1 and keeps it as `encoder`, as the
networks of `models.with_dynamic` do. train_seg.py then requires phase 1.
"""
