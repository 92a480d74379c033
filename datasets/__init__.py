"""The images/masks/train.txt folder: finding, decoding, checking and transforming its cases."""
