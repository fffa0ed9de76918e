"""BigBird: transformers' BigBirdBlockSparseAttention on chosen q, k, v, and the count table that says the same.

Goes out: bigbird_* goldens in eval mode (every random block is block 0) and train mode (a drawn plan).
"""

import numpy as np
import torch
from transformers import BigBirdConfig
from transformers.models.big_bird.modeling_big_bird import BigBirdBlockSparseAttention, BigBirdModel

from common import Fixed, generator, merge_heads, qkv, split_heads, write


def bigbird(q, k, v, block, n_random, train):
    """Context of the module in f64, and the random block plan [H, NB - 2, r] that it drew."""
    b, h, s, d = q.shape
    config = BigBirdConfig(hidden_size=h * d, num_attention_heads=h, block_size=block, num_random_blocks=n_random, max_position_embeddings=4096 if s == 1024 else s)
    module = BigBirdBlockSparseAttention(config, seed=11).double().train(train)
    module.query, module.key, module.value = (Fixed(merge_heads(x).double()) for x in (q, k, v))
    blocked, band, from_mask, to_mask = BigBirdModel.create_masks_for_block_sparse_attn(torch.ones(b, s, dtype=torch.float64), block)
    hidden = torch.zeros(b, s, h * d, dtype=torch.float64)
    plans = []
    if s in (1024, 3072, 4096):  # a plan for the longest sequence, one draw for every head, the first rows taken
        draw = module._bigbird_block_rand_mask
        module._bigbird_block_rand_mask = lambda *a, **kw: plans.append(draw(*a, **kw)) or plans[-1]
    else:
        draw = module._bigbird_block_rand_mask_with_head
        module._bigbird_block_rand_mask_with_head = lambda **kw: plans.extend(draw(**kw)) or plans
    o = module(hidden, band, from_mask, to_mask, blocked, blocked)[0]
    return split_heads(o, h), np.stack([plan[: s // block - 2] for plan in plans])


def counts(plan, nb):
    """How often each block of queries names each block of keys: 2 global, 3 of window, r random blocks."""
    h = plan.shape[0]
    count = np.zeros((h, nb, nb), dtype=np.int32)
    count[:, 0] = count[:, nb - 1] = 1
    for row in range(1, nb - 1):
        for col in {1: [0, 1, 2, nb - 1], nb - 2: [0, nb - 3, nb - 2, nb - 1]}.get(row, [0, row - 1, row, row + 1, nb - 1]):
            count[:, row, col] += 1
        for head in range(h):
            np.add.at(count[head, row], plan[head, row - 1], 1)
    return torch.from_numpy(count)


def main():
    """Writes the whole family."""
    for block, s, h, d, n_random, train in [(16, 192, 2, 16, 3, False), (16, 192, 2, 16, 3, True), (64, 512, 1, 16, 1, False), (64, 512, 1, 16, 1, True), (64, 1024, 1, 8, 3, True)]:
        name = f"bigbird_b{block}_{s}_" + ("train" if train else "eval")
        q, k, v = qkv(generator(name), 1, h, s, d)
        o, plan = bigbird(q, k, v, block, n_random, train)
        kernel = "bigbird_plan" if block == 64 else f"bigbird_plan_{block}"
        call = f"BigBirdBlockSparseAttention(block_size={block}, num_random_blocks={n_random}, seed=11).double().train({train})(x, masks of ones), projections fixed"
        note = f"count is formed from the plan the module drew; largest count {int(counts(plan, s // block).max())}"
        write(name, "bigbird.attn", kernel, dict(B=1, H=h, S=s, D=d, NB=s // block), dict(q=q, k=k, v=v, count=counts(plan, s // block)), dict(o=o), call, "transformers", note=note)


if __name__ == "__main__":
    main()
