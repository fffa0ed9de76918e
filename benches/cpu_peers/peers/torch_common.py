"""What the files about torch share."""

import torch

DTYPES = dict(f32=torch.float32, bf16=torch.bfloat16, f16=torch.float16)
sdpa = torch.nn.functional.scaled_dot_product_attention


def load(case, tensors, threads):
    """q, k, v as torch tensors [1, heads, rows, features] in the type of the case; sets the threads."""
    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    q, k, v = [torch.from_numpy(tensors[n])[None].to(DTYPES[case.dtype]) for n in "qkv"]
    if case.by_token:
        k, v = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (k, v)]
    return q, k, v


def fetch(o):
    """f32 (o [Hq, Sq, D], None) of a torch tensor [1, Hq, Sq, D]."""
    return o[0].float().numpy(), None
