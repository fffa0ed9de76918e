//! Attentions of every clause are written and read back; texts that mean nothing are refused.

use super::{parse, print};

/// Every optional part is there.
const FULL: &str = "attention full {
  vars b: int, h: int, i: int, j: int, row: int, B: int, Sq: int, Sk: int, window: int, cap_2: float, qk: float, pe: float
  dim B = B
  dim Hq = 4
  dim Sq = Sq in 1..8
  dim Sk = Sk
  dim half = Sk div 2
  param window = 128
  param cap(cap_2) = 50.0
  tensor q: bf16[B, 4, Sq, 64] layout [0, 2, 1, 3]
  tensor k: bf16[B, 2, Sk, 64]
  tensor v: bf16[B, 2, Sk, 32]
  tensor e: bf16[Sk, 64] made rest e_rest
  tensor doc: i32[B, Sk] sorted
  tensor seen: bit[Sk] monotone
  tensor sink: f32[4]
  tensor e_rest: bf16[Sk, 64] made
  index b, h, i, j, row
  batch B
  heads 4
  kv_heads 2
  kv_head h div 2
  seq_q Sq
  seq_k Sk
  offset Sk - Sq
  dot qk = q(batch 0, head 1, seq 2, feature 3) * k(batch 0, head 1, seq 2, feature 3)
  dot pe = q(batch 0, head 1, seq 2, feature 3) * e(seq 0, feature 1)
  score [%0 = (qk + pe) / 8.0] %0 < 0.0 ? cap_2 * tanh(%0 / cap_2) : %0
  mask j <= i & i < j + window & (doc[b, j] == doc[b, i] | seen[j])
  weight softmax sink = sink[h]
  value v(batch 0, head 1, seq 2, feature 3)
  output o: bf16 = o
  output lse: f32 = lse
  output top: f32 = max_logit
  tile_q 32
  tile_kv 64
  exact_dot
  split 512
  batch_invariant
}
";

#[test]
fn full_prints_as_it_was_read() {
    let a = parse(FULL).unwrap();
    assert_eq!(print(&a), FULL);
    assert_eq!(a.feature_dim(a.value), 32);
    assert_eq!(a.runtime_dims().len(), 3);
}

#[test]
fn numbering_of_nodes_does_not_show() {
    let extra = FULL.replace("batch B\n", "batch 3 * h + 4 * (i - j) + B\n");
    let (mut a, reference) = (parse(&extra).unwrap(), parse(FULL).unwrap());
    assert_ne!(a.score, reference.score);
    a.batch = a.dims[0].size;
    assert_eq!(print(&a), FULL);
}

#[test]
fn text_that_means_nothing_is_an_error() {
    for (from, to, message) in [
        ("batch B", "batch C", "no variable `C`"),
        ("kv_heads 2", "kv_heads x", "an integer"),
        ("feature 3) * k", "feature 4) * k", "4 dims"),
        ("weight softmax", "weight hardmax", "no weight"),
        ("= lse", "= lsd", "max_logit"),
        ("Sk: int,", "Sq: int,", "twice"),
        ("batch_invariant\n}", "batch_invariant\n", "`}`"),
        ("mask j <= i", "mask j <= qk", "types"),
    ] {
        let error = parse(&FULL.replacen(from, to, 1)).unwrap_err();
        assert!(error.message.contains(message), "{to}: {error}");
    }
}
