"""Other implementations, one file each. A file has a list PEERS of `base.Peer` objects and is loaded in a process of its own."""

FILES = ["torch_sdpa", "torch_flex", "torch_workarounds", "onnx_ops", "openvino_sdpa", "ggml_flash", "jax_dpa", "numpy_dense"]
"""In the order in which they take turns."""
