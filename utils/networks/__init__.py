"""Networks to and from files: checkpoints, weights, exported models, and the engines that run them."""

# What scripts name in their flags, here since the modules that it belongs to import torch.
ENGINES = ("torch", "onnxruntime", "openvino")  # see utils.networks.inference_engines
EXPORT_FORMATS = ("onnx", "openvino", "torchscript")  # of export.py, keys of utils.networks.export.FORMATS
