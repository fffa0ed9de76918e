//! One line for each intrinsic of the table: its rate, and its share of the limit that bounds it.
//!
//! In: an instruction set. Out: lines on standard output, in the order of the table. The limits are measured beside: the
//! FMA peak of the set, exponentials per second of `vmath`, bytes per second that a copy reads and writes within the
//! first-level cache. A share is a place to look, not a mark: a function of eight polynomials is not a copy.
//! What holds: an intrinsic without a line does not compile, since the match names all. Not here: shapes other than one.

use std::hint::black_box;

use attn_compiler::artifact::{DType, Intrinsic, MathFn};
use attn_runtime::cpu::intrinsics::{IntrinsicTable, Isa, table};
use attn_runtime::cpu::peak::fma_peak_gflops;

use super::{Tile, measure};

/// Rows and columns of the tiles, which are 16 KiB.
const ROWS: usize = 32;
const COLS: usize = 128;
const COUNT: usize = ROWS * COLS;

/// What bounds a rate.
#[derive(Clone, Copy)]
enum Limit {
    /// Operations of fused multiplications and additions: so many for a call.
    Fma(f64),
    /// Bytes read and written by a call.
    Bytes(f64),
    /// Exponentials, or functions of about their cost, of a call.
    Exp(f64),
}

/// Billions per second.
struct Limits {
    fma: f64,
    bytes: f64,
    exp: f64,
}

impl Limits {
    fn of(isa: Isa) -> Limits {
        let (src, mut dst) = (vec![1f32; COUNT], vec![0f32; COUNT]);
        let (_, copy) = measure(|| black_box(&mut dst[..]).copy_from_slice(black_box(&src)));
        let mut tile = Tile::noise(COUNT);
        let (s, n, vmath) = (tile.ptr(), COUNT as i64, table(isa).vmath());
        // SAFETY: the tile holds COUNT values.
        let (_, exp) = measure(|| unsafe { vmath(MathFn::Exp as u32, s, n, 1, n) });
        Limits {
            fma: fma_peak_gflops(isa, 1),
            bytes: (8 * COUNT) as f64 / copy / 1e9,
            exp: COUNT as f64 / exp / 1e9,
        }
    }

    fn line(&self, name: &str, limit: Limit, call: impl FnMut()) {
        let (median, _) = measure(call);
        let (amount, most, unit) = match limit {
            Limit::Fma(n) => (n, self.fma, "GFLOP/s"),
            Limit::Bytes(n) => (n, self.bytes, "GB/s in L1"),
            Limit::Exp(n) => (n, self.exp, "Gexp/s"),
        };
        let rate = amount / median / 1e9;
        println!(
            "  {name:<28} {:9.3} us {rate:9.2} {unit:<10} {:6.1} % of {most:.1}",
            median * 1e6,
            rate / most * 100.0
        );
    }
}

/// Tiles and vectors that the calls work on; every one is as large as any call needs.
struct Room {
    a: Tile,
    b: Tile,
    c: Tile,
    /// Vectors of a value for each row.
    rows: [Vec<f32>; 4],
    bytes: Vec<u8>,
    ints: Vec<i32>,
}

impl Room {
    fn new() -> Room {
        Room {
            a: Tile::noise(COUNT),
            b: Tile::noise(COUNT),
            c: Tile::zeroed(COUNT),
            rows: std::array::from_fn(|_| vec![0.5f32; COUNT]),
            bytes: vec![0u8; 4 * COUNT],
            ints: vec![0i32; COUNT],
        }
    }
}

/// Prints a line for every intrinsic, some for several storage types.
pub fn lines(isa: Isa) {
    let limits = Limits::of(isa);
    println!(
        "{isa}: every intrinsic on tiles of {ROWS} x {COLS}; limits {:.0} GFLOP/s, {:.1} GB/s, {:.2} Gexp/s",
        limits.fma, limits.bytes, limits.exp
    );
    let (t, mut room) = (table(isa), Room::new());
    for intrinsic in Intrinsic::ALL {
        match intrinsic {
            Intrinsic::Gemm | Intrinsic::GemmSkipZero | Intrinsic::GemmColumns | Intrinsic::GemmRows => {
                products(&limits, t, &mut room, intrinsic)
            }
            Intrinsic::SoftmaxStep | Intrinsic::WeightStep | Intrinsic::FinishSoftmax => {
                weights(&limits, t, &mut room, intrinsic)
            }
            Intrinsic::PackK
            | Intrinsic::PackV
            | Intrinsic::LoadRows
            | Intrinsic::StoreRows
            | Intrinsic::StoreVec => {
                for dtype in [DType::F32, DType::F16, DType::Bf16, DType::I8] {
                    storage(&limits, t, &mut room, intrinsic, dtype);
                }
            }
            Intrinsic::VMath | Intrinsic::Math1 | Intrinsic::Pow | Intrinsic::HalfToF32 => {
                functions(&limits, t, &mut room, intrinsic)
            }
            Intrinsic::Transpose
            | Intrinsic::ScanRows
            | Intrinsic::ReduceRows
            | Intrinsic::Random
            | Intrinsic::Fill => tiles(&limits, t, &mut room, intrinsic),
            Intrinsic::Affine | Intrinsic::Band => scores(&limits, t, &mut room, intrinsic),
            Intrinsic::GemmPairs
            | Intrinsic::GemmPairsSkipZero
            | Intrinsic::PackKPairs
            | Intrinsic::PackVPairs
            | Intrinsic::LoadPairs
            | Intrinsic::RoundPairs
            | Intrinsic::ColumnsPairs
            | Intrinsic::RowsPairs => pairs(&limits, t, &mut room, intrinsic),
            Intrinsic::PrefixSum | Intrinsic::TopK | Intrinsic::KeepLargest | Intrinsic::Mark => {
                selections(&limits, t, &mut room, intrinsic)
            }
        }
    }
}

/// Tiles are left operands of 32 rows of 64, right ones of 64 rows of 32 (a panel) or rows where they lie.
fn products(limits: &Limits, t: &IntrinsicTable, room: &mut Room, which: Intrinsic) {
    let (a, b, c) = (room.a.ptr(), room.b.ptr(), room.c.ptr());
    let (rows, k, n) = (32i64, 64, 64);
    let flops = Limit::Fma((2 * rows * k * n) as f64);
    let none = std::ptr::null();
    let direct = Limit::Fma((2 * 4 * k * n) as f64);
    let (from, f32_code) = (b.cast::<u8>().cast_const(), DType::F32 as u32);
    // SAFETY: every operand has at most COUNT values, as many as the tiles.
    unsafe {
        match which {
            Intrinsic::Gemm => {
                limits.line("gemm 32 x 64 x 64", flops, || {
                    (t.gemm())(c, n, a, k, b, 32 * k, rows, k, n, none, 1)
                });
            }
            Intrinsic::GemmSkipZero => {
                limits.line("gemm_skip_zero 32 x 64 x 64", flops, || {
                    (t.gemm_skip_zero())(c, n, a, k, b, 32 * k, rows, k, n, none, 1)
                });
            }
            Intrinsic::GemmColumns => {
                limits.line("gemm_columns 4 x 64 x 64", direct, || {
                    (t.gemm_columns())(c, n, a, k, from, f32_code, k, 1, 4, k, n, 0, std::ptr::null())
                });
            }
            _ => {
                limits.line("gemm_rows 4 x 64 x 64", direct, || {
                    (t.gemm_rows())(c, n, a, k, from, f32_code, n, 1, 4, k, n, none, 1, 0, std::ptr::null())
                });
            }
        }
    }
}

/// The same products of bf16 in pairs, which may pass the peak of f32, and what makes their operands.
fn pairs(limits: &Limits, t: &IntrinsicTable, room: &mut Room, which: Intrinsic) {
    let (a, b, c) = (room.a.ptr(), room.b.ptr(), room.c.ptr());
    let (rows, k, n) = (32i64, 64, 64);
    let (flops, direct) = (Limit::Fma((2 * rows * k * n) as f64), Limit::Fma((2 * 4 * k * n) as f64));
    let copied = Limit::Bytes((4 * k * n) as f64);
    let (none, from, to) = (std::ptr::null(), b.cast::<u8>().cast_const(), c.cast::<u16>());
    // SAFETY: every operand has at most COUNT values, as many as the tiles.
    unsafe {
        match which {
            Intrinsic::GemmPairs => limits.line("gemm_pairs 32 x 64 x 64", flops, || {
                (t.gemm_pairs())(c, n, a, k, b, 32 * k, rows, k, n, none, 1)
            }),
            Intrinsic::GemmPairsSkipZero => limits.line("gemm_pairs_skip_zero 32 x 64 x 64", flops, || {
                (t.gemm_pairs_skip_zero())(c, n, a, k, b, 32 * k, rows, k, n, none, 1)
            }),
            Intrinsic::PackKPairs => {
                limits.line("pack_k_pairs", copied, || (t.pack_k_pairs())(c, from, n, k, k, 1))
            }
            Intrinsic::PackVPairs => {
                limits.line("pack_v_pairs", copied, || _ = (t.pack_v_pairs())(c, n * 32, from, n, k, k, 1))
            }
            Intrinsic::LoadPairs => {
                limits.line("load_pairs", copied, || (t.load_pairs())(to, k, from, n, k, k, 1))
            }
            Intrinsic::RoundPairs => limits.line("round_pairs", Limit::Bytes((6 * COUNT) as f64), || {
                (t.round_pairs())(to, COLS as i64, a, COLS as i64, ROWS as i64, COLS as i64)
            }),
            Intrinsic::ColumnsPairs => limits.line("columns_pairs 4 x 64 x 64", direct, || {
                (t.columns_pairs())(c, n, a, k, from, k, 1, 4, k, n, 0, std::ptr::null())
            }),
            _ => limits.line("rows_pairs 4 x 64 x 64", direct, || {
                (t.rows_pairs())(c, n, a, k, from, n, 1, 4, k, n, none, 1, 0, std::ptr::null())
            }),
        }
    }
}

fn weights(limits: &Limits, t: &IntrinsicTable, room: &mut Room, which: Intrinsic) {
    let s = room.a.ptr();
    let [max, sum, alpha, lse] = room.rows.each_mut().map(|v| v.as_mut_ptr());
    let (rows, cols) = (ROWS as i64, COLS as i64);
    // SAFETY: the tile and the vectors have the sizes that the arguments say.
    unsafe {
        match which {
            Intrinsic::SoftmaxStep => {
                limits.line("softmax_step", Limit::Exp(COUNT as f64), || {
                    (t.softmax_step())(s, cols, rows, cols, 0.125, max, sum, alpha, 0)
                });
            }
            Intrinsic::WeightStep => {
                for (kind, name) in [(0, "sigmoid"), (1, "relu"), (2, "plain")] {
                    let limit =
                        if kind == 0 { Limit::Exp(COUNT as f64) } else { Limit::Bytes((8 * COUNT) as f64) };
                    limits.line(&format!("weight_step {name}"), limit, || {
                        (t.weight_step())(kind, s, cols, rows, cols, 1.0, max, 0)
                    });
                }
            }
            _ => {
                limits.line("finish_softmax", Limit::Exp((3 * ROWS) as f64), || {
                    (t.finish_softmax())(rows, max, sum, f32::NEG_INFINITY, alpha, lse)
                });
            }
        }
    }
}

fn storage(limits: &Limits, t: &IntrinsicTable, room: &mut Room, which: Intrinsic, dtype: DType) {
    let (x, to, bytes, code) = (room.b.ptr(), room.c.ptr(), room.bytes.as_mut_ptr(), dtype as u32);
    let (n, d) = (64i64, 64i64);
    let moved = Limit::Bytes((COUNT * (4 + dtype.size())) as f64);
    // SAFETY: 64 rows of 64 elements are COUNT; the bytes hold as many of any type here.
    unsafe {
        match which {
            Intrinsic::PackK => {
                limits.line(&format!("pack_k {dtype}"), moved, || (t.pack_k())(to, bytes, code, n, d, d, 1));
            }
            Intrinsic::PackV => {
                limits.line(&format!("pack_v {dtype}"), moved, || {
                    _ = (t.pack_v())(to, n * 32, bytes, code, n, d, d, 1)
                });
            }
            Intrinsic::LoadRows => {
                limits.line(&format!("load_rows {dtype}"), moved, || {
                    (t.load_rows())(to, d, bytes, code, n, d, d, 1)
                });
            }
            Intrinsic::StoreRows => {
                limits.line(&format!("store_rows {dtype}"), moved, || {
                    (t.store_rows())(x, d, bytes, code, n, d, d, 1, std::ptr::null())
                });
            }
            _ => {
                limits.line(&format!("store_vec {dtype}"), moved, || {
                    (t.store_vec())(x, bytes, code, COUNT as i64, 1)
                });
            }
        }
    }
}

fn functions(limits: &Limits, t: &IntrinsicTable, room: &mut Room, which: Intrinsic) {
    use MathFn::*;
    let (to, n) = (room.c.ptr(), COUNT as i64);
    let all = [Exp, Exp2, Log, Log2, Tanh, Sigmoid, Sin, Cos];
    // SAFETY: the tile holds COUNT values; the others take values only.
    unsafe {
        match which {
            Intrinsic::VMath => {
                for f in all {
                    limits.line(&format!("vmath {f:?}"), Limit::Exp(COUNT as f64), || {
                        (t.vmath())(f as u32, to, n, 1, n)
                    });
                }
            }
            Intrinsic::Math1 => {
                for f in all {
                    limits.line(&format!("math1 {f:?}, one value"), Limit::Exp(1.0), || {
                        _ = black_box((t.math1())(f as u32, black_box(0.7)))
                    });
                }
            }
            Intrinsic::Pow => {
                limits.line("pow, one value", Limit::Exp(1.0), || {
                    _ = black_box((t.pow())(black_box(1.7), black_box(2.3)))
                });
            }
            _ => {
                limits.line("half_to_f32, one value", Limit::Bytes(6.0), || {
                    _ = black_box((t.half_to_f32())(black_box(0x3c01)))
                });
            }
        }
    }
}

fn tiles(limits: &Limits, t: &IntrinsicTable, room: &mut Room, which: Intrinsic) {
    let (x, to) = (room.b.ptr(), room.c.ptr());
    let [decay, out, ..] = room.rows.each_mut().map(|v| v.as_mut_ptr());
    let (rows, cols) = (ROWS as i64, COLS as i64);
    let (both, once) = (Limit::Bytes((8 * COUNT) as f64), Limit::Bytes((4 * COUNT) as f64));
    // SAFETY: the tiles and the vectors have the sizes that the arguments say.
    unsafe {
        match which {
            Intrinsic::Transpose => {
                limits.line("transpose", both, || (t.transpose())(to, rows, x, cols, rows, cols));
            }
            Intrinsic::Fill => limits.line("fill", once, || (t.fill())(to, COUNT as i64, 1.5)),
            Intrinsic::ScanRows => {
                limits.line("scan_rows", both, || (t.scan_rows())(to, cols, rows, cols, decay));
            }
            Intrinsic::ReduceRows => {
                for (op, name) in [(0, "max"), (1, "sum"), (2, "max_abs")] {
                    limits.line(&format!("reduce_rows {name}"), once, || {
                        (t.reduce_rows())(op, out, x, cols, rows, cols)
                    });
                }
            }
            _ => {
                limits.line("random", both, || {
                    (t.random())(to, cols, rows, cols, 7, 3, 1, 2, 5, 1 << 29, 1.125)
                });
            }
        }
    }
}

fn scores(limits: &Limits, t: &IntrinsicTable, room: &mut Room, which: Intrinsic) {
    let s = room.c.ptr();
    let [factor, term, ..] = room.rows.each_ref().map(|v| v.as_ptr());
    let (rows, cols) = (ROWS as i64, COLS as i64);
    // SAFETY: the tile has the size that the arguments say, the vectors COUNT values.
    unsafe {
        if which == Intrinsic::Affine {
            limits.line("affine by column", Limit::Bytes((12 * COUNT) as f64), || {
                (t.affine())(s, cols, rows, cols, 1.0, factor, term, 0, 0)
            });
            let last = term.add(ROWS - 1);
            limits.line("affine by diagonal", Limit::Bytes((12 * COUNT) as f64), || {
                (t.affine())(s, cols, rows, cols, 0.5, std::ptr::null(), last, -1, 0)
            });
        } else {
            // Half of the tile is written.
            limits.line("band, causal", Limit::Bytes((2 * COUNT) as f64), || {
                (t.band())(s, cols, rows, cols, rows, 0, 0, 1, 1)
            });
        }
    }
}

fn selections(limits: &Limits, t: &IntrinsicTable, room: &mut Room, which: Intrinsic) {
    let (x, to) = (room.b.ptr(), room.c.ptr());
    let from = x.cast::<u8>().cast_const();
    let [best, at, ..] = room.rows.each_mut().map(|v| v.as_mut_ptr());
    let (rows, cols, n) = (ROWS as i64, COLS as i64, COUNT as i64);
    let (ints, none, f32_code) = (room.ints.as_mut_ptr(), std::ptr::null_mut(), DType::F32 as u32);
    let once = Limit::Bytes((4 * COUNT) as f64);
    // SAFETY: the tiles and the vectors have the sizes that the arguments say: lists of 16 for each of 32 rows.
    unsafe {
        match which {
            Intrinsic::PrefixSum => {
                limits.line("prefix_sum", Limit::Bytes((12 * COUNT) as f64), || {
                    (t.prefix_sum())(best, to, from, f32_code, n, 1)
                });
            }
            Intrinsic::TopK => {
                limits.line("top_k 64", once, || (t.top_k())(ints, none, from, f32_code, n, 1, 64, 64));
            }
            Intrinsic::KeepLargest => {
                limits.line("keep_largest 16", once, || {
                    (t.keep_largest())(best, at, 16, x, cols, rows, cols, 0, 16)
                });
            }
            _ => {
                limits.line("mark 16", once, || (t.mark())(to, cols, at, 16, rows, cols, 0));
            }
        }
    }
}
