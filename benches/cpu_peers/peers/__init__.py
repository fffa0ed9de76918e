"""Other implementations, one file each. A file has a list PEERS of `base.Peer` objects and is loaded in a process of its own."""

FILES = dict(
    torch_sdpa="torch", torch_flex="torch", torch_workarounds="torch", onnx_ops="onnxruntime", openvino_sdpa="openvino", ggml_flash="ggml",
    jax_dpa="jax", numpy_dense="base",
)
"""Files and the group of pins (environment.py) that each needs, in the order in which they take turns."""
