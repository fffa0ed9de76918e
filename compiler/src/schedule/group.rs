//! Query heads that read the same keys as rows of one tile (grouped and multi-query attention): every packed key and
//! value is then read once for all of them, and a decode step with one query still fills a tile.
//!
//! Comes in: an [`Attention`]. Goes out: how many consecutive query heads may share a tile, and its mask and score with
//! the key head as a variable. What holds: the mask is the same for all of them. Not here: how many really do, which
//! the tile sizes decide.

use crate::attn_ir::{Attention, OutputKind, Weight};
use crate::expr::{BinaryOp, ExprId, Op, Pool, Ty};

/// How many consecutive query heads read one key head and may share a tile; 1 where they may not.
pub fn most_heads(attn: &Attention) -> i64 {
    let (h, pool) = (attn.index.h, &attn.pool);
    let group = match *pool.op(attn.kv_head) {
        Op::Int(_) => attn.n_heads,
        Op::Binary(BinaryOp::IDiv, x, n) if *pool.op(x) == Op::Var(h) => pool.as_int(n).unwrap_or(1),
        _ => 1,
    };
    if group <= 1 || attn.n_heads % group != 0 || attn.dropout.is_some() {
        return 1;
    }
    let mut scratch = pool.clone();
    let g = scratch.add_var("group", Ty::Int);
    let g = scratch.var(g);
    let mask = with_key_head(&mut scratch, attn, attn.mask, g);
    // The largest score of a row has no sink in it, and a sink of its own for each row begins the row.
    let largest = attn.outputs.iter().any(|o| o.kind == OutputKind::MaxLogit);
    let own_sink = matches!(attn.weight, Weight::Softmax { sink: Some(s) } if pool.depends_on(s, &[h]));
    if scratch.depends_on(mask, &[h]) || (largest && own_sink) { 1 } else { group }
}

/// The largest number of heads, at most `rows`, into which the group falls.
pub fn heads_within(most: i64, rows: i64) -> i64 {
    (1..=most.min(rows)).rev().find(|n| most % n == 0).unwrap_or(1)
}

/// The expression with `g` for the key head.
pub fn with_key_head(pool: &mut Pool, attn: &Attention, root: ExprId, g: ExprId) -> ExprId {
    if !pool.depends_on(attn.kv_head, &[attn.index.h]) {
        return root;
    }
    pool.rewrite(root, &mut |_, id| (id == attn.kv_head).then_some(g))
}
