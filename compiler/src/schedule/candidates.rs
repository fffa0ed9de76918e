//! Schedules worth measuring: those around one that is known to be good.
//!
//! Comes in: an attention, the facts of a CPU, a schedule to start from, the lengths at which it will be measured. Goes
//! out: for one [`Knob`] at a time, other schedules. What holds: every candidate passes the check of every schedule
//! ([`choose_with`]), the L2 budget included; what the text's `schedule` clause fixes stays; no two are alike, and
//! none is the one to start from. Splits are not varied: they belong to the text, since they change which partial
//! results are merged. Not here: measuring.

use crate::artifact::PANEL;
use crate::attn_ir::Attention;
use crate::target::CpuFacts;

use super::overrides::{MAX_DIRECT, Override};
use super::{QueryOrder, Schedule, choose_with, group};

/// What is varied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Knob {
    /// `tile_q` and `tile_kv`, by factors of two.
    Tile,
    /// Heads that share a tile: with as many rows for each head, or as many rows together.
    Heads,
    /// Order of the query tiles.
    Order,
    /// Whether calls of this many query rows read keys where they lie.
    Direct,
}

impl Knob {
    /// In the order in which they are turned.
    pub const ALL: [Knob; 4] = [Knob::Tile, Knob::Heads, Knob::Direct, Knob::Order];
}

/// Lengths at which schedules are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lengths {
    /// Query rows of a head.
    pub seq_q: i64,
    /// Keys.
    pub seq_k: i64,
}

/// Most steps, factors of two, that both tile sizes together lie from where they start.
const MOST_STEPS: u32 = 3;
/// Most factors of two of one of them.
const REACH: i32 = 2;
/// Beyond this many query rows packing is not in question.
const MOST_DIRECT: i64 = 256;

/// Other settings of one knob.
pub fn candidates(
    attn: &Attention,
    facts: &CpuFacts,
    from: &Schedule,
    lengths: Lengths,
    knob: Knob,
) -> Vec<Schedule> {
    let settings = match knob {
        Knob::Tile => tiles(attn, from, lengths),
        Knob::Heads => heads(attn, from),
        Knob::Order => orders(from, lengths),
        Knob::Direct => directs(from, lengths),
    };
    let mut found: Vec<Schedule> = Vec::new();
    for setting in settings {
        match choose_with(attn, facts, &setting) {
            Ok(s) if s != *from && !found.contains(&s) => found.push(s),
            _ => {}
        }
    }
    found
}

/// Tile sizes within a few factors of two. A tile that holds every row or key already does not grow.
fn tiles(attn: &Attention, from: &Schedule, lengths: Lengths) -> Vec<Override> {
    let scaled = |n: i64, steps: i32| if steps < 0 { n >> -steps } else { n << steps };
    let sizes = |n: i64, least: i64, length: i64, fixed: bool| -> Vec<(u32, i64)> {
        let reach = if fixed { 0 } else { REACH };
        let all = (-reach..=reach).map(|steps| (steps.unsigned_abs(), scaled(n, steps)));
        all.filter(|&(steps, size)| steps == 0 || size >= least && (size < n || n < length)).collect()
    };
    let rows = sizes(from.tile_q, 1, lengths.seq_q, attn.tiles.tile_q.is_some());
    let keys = sizes(from.tile_kv, PANEL as i64, lengths.seq_k, attn.tiles.tile_kv.is_some());
    let mut out = Vec::new();
    for &(row_steps, tile_q) in &rows {
        for &(_, tile_kv) in keys.iter().filter(|k| row_steps + k.0 <= MOST_STEPS) {
            out.push(Override { tile_q: Some(tile_q), tile_kv: Some(tile_kv), ..Override::of(from) });
        }
    }
    out
}

fn heads(attn: &Attention, from: &Schedule) -> Vec<Override> {
    let most = group::most_heads(attn);
    let mut out = Vec::new();
    for n in (1..=most).filter(|n| most % n == 0 && *n != from.heads) {
        let together = Override { heads: Some(n), ..Override::of(from) };
        out.push(together);
        if attn.tiles.tile_q.is_none() {
            out.push(Override { tile_q: Some((from.rows() / n).max(1)), ..together });
        }
    }
    out
}

fn orders(from: &Schedule, lengths: Lengths) -> Vec<Override> {
    if lengths.seq_q <= from.tile_q {
        return Vec::new();
    }
    let other = match from.order {
        QueryOrder::Ascending => QueryOrder::Descending,
        QueryOrder::Descending => QueryOrder::Ascending,
    };
    vec![Override { order: Some(other), ..Override::of(from) }]
}

/// The other way of reading keys, for calls up to the next power of two.
fn directs(from: &Schedule, lengths: Lengths) -> Vec<Override> {
    let direct = match lengths.seq_q {
        rows if rows <= from.direct => 0,
        rows if rows <= MOST_DIRECT => (rows as u64).next_power_of_two() as i64,
        _ => return Vec::new(),
    };
    vec![Override { direct: Some(direct.min(MAX_DIRECT)), ..Override::of(from) }]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::{ScheduleError, choose};
    use crate::target::CpuArch;
    use crate::{pipeline, sema};

    fn facts(l2: usize) -> CpuFacts {
        let arch = CpuArch::X86_64 { sse41: true, fma: true };
        CpuFacts { arch, l1d: 32 << 10, l2, l3: 8 << 20, vector_bits: 256, pairs: false }
    }

    fn attention(schedule: &str) -> Attention {
        let text = format!(
            "attention a {{ dims B, H = 8, G = 2, S, D = 64  input q : float[B, H, S, D]
             input k, v : float[B, G, S, D]  heads grouped  score = dot(q, k)  mask = j <= i
             weight = softmax(score)  return weight @ v  {schedule} }}"
        );
        let front = pipeline::front("a.attn", &text, &mut sema::no_files, &mut ());
        assert!(!front.diagnostics.has_errors(), "{:?}", front.diagnostics);
        let key = sema::PlanKey {
            kernel: "a".into(),
            target: crate::target::Target::Cpu(facts(1 << 20)),
            float: crate::artifact::DType::F32,
            dims: Default::default(),
            statics: Default::default(),
            present: Default::default(),
            shard: None,
            schedules: Default::default(),
        };
        let kernel = sema::instantiate(&front.checked.kernels[0], &key).unwrap();
        kernel.attentions().next().unwrap().clone()
    }

    const LONG: Lengths = Lengths { seq_q: 2048, seq_k: 2048 };

    #[test]
    fn every_candidate_fits_and_differs() {
        let attn = attention("");
        for l2 in [256 << 10, 1 << 20] {
            let facts = facts(l2);
            let from = choose(&attn, &facts).unwrap();
            for knob in Knob::ALL {
                let found = candidates(&attn, &facts, &from, LONG, knob);
                assert_eq!(found.is_empty(), knob == Knob::Direct, "{knob:?} at {l2}");
                for (n, c) in found.iter().enumerate() {
                    assert!(*c != from && !found[..n].contains(c), "{knob:?}: {c}");
                    assert!(c.sram_bytes() <= c.budget, "{c}");
                    assert_eq!(choose_with(&attn, &facts, &Override::of(c)).as_ref(), Ok(c));
                }
            }
        }
    }

    #[test]
    fn what_the_text_fixes_stays() {
        let (attn, facts) = (attention("schedule cpu { tile = [16, 64] }"), facts(1 << 20));
        let from = choose(&attn, &facts).unwrap();
        assert!(candidates(&attn, &facts, &from, LONG, Knob::Tile).is_empty());
        let heads = candidates(&attn, &facts, &from, LONG, Knob::Heads);
        assert!(!heads.is_empty() && heads.iter().all(|c| (c.tile_q, c.tile_kv) == (16, 64)));
    }

    #[test]
    fn short_calls_vary_how_keys_are_read_and_tiles_do_not_outgrow_them() {
        let (attn, facts) = (attention(""), facts(1 << 20));
        let from = choose(&attn, &facts).unwrap();
        let one = Lengths { seq_q: 1, seq_k: 4096 };
        let direct = candidates(&attn, &facts, &from, one, Knob::Direct);
        assert_eq!(direct.iter().map(|c| c.direct).collect::<Vec<_>>(), [0]);
        let packed = candidates(&attn, &facts, &from, Lengths { seq_q: 40, ..one }, Knob::Direct);
        assert_eq!(packed.iter().map(|c| c.direct).collect::<Vec<_>>(), [64]);
        assert!(candidates(&attn, &facts, &from, one, Knob::Order).is_empty());
        let tiles = candidates(&attn, &facts, &from, one, Knob::Tile);
        assert!(tiles.iter().all(|c| c.tile_q <= from.tile_q) && !tiles.is_empty());
    }

    #[test]
    fn decided_fields_are_checked() {
        let (attn, facts) = (attention(""), facts(1 << 20));
        let with = |o: Override| choose_with(&attn, &facts, &o);
        let heads = |n| with(Override { heads: Some(n), ..Override::default() });
        assert_eq!(heads(2).unwrap().heads, 2);
        for bad in [0, 3, 8, -4, i64::MIN, i64::MAX] {
            let err = heads(bad).unwrap_err();
            assert!(matches!(err, ScheduleError::BadHeads { most: 4, .. }), "{bad}: {err}");
        }
        for bad in [-1, 1025, i64::MAX] {
            let err = with(Override { direct: Some(bad), ..Override::default() }).unwrap_err();
            assert!(err.to_string().starts_with("direct = "), "{err}");
            assert!(with(Override { tile_q: Some(bad), ..Override::default() }).is_err());
        }
        let large = with(Override { tile_q: Some(1024), tile_kv: Some(1024), ..Override::default() });
        assert!(matches!(large, Err(ScheduleError::TooLarge { .. })));
        let order = Some(QueryOrder::Ascending);
        let s = with(Override { order, tile_kv: Some(64), ..Override::default() }).unwrap();
        assert_eq!((s.order, s.tile_kv), (QueryOrder::Ascending, 64));
    }
}
