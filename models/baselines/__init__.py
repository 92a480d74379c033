"""Other segmentation networks, one a file. The file's name is what --variant takes; it is imported when it builds.

A file has a function `build()`. It returns a module that takes images (B, 1 or 3, H, W), H and W at least 8, to logits
(B, 1, H, W). `models.any_size.AnySize` adapts a network that wants three channels or sides of a certain multiple.
These networks have no phase 1: train_seg.py trains them as they are.
"""
