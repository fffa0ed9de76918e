//! The tiles that a lowered program skips, those on which it runs no mask, and how many keys of each it works on,
//! against what is found on the host: the two must be the same, so that `explain` and `view` show what a kernel does.
//!
//! The program is lowered as always; then its work on a tile is replaced by counting, in f64, by the interpreter.

use std::collections::HashMap;

use attn_compiler::attn_ir::{Attention, text as attn_text};
use attn_compiler::ensure::analyze_mask;
use attn_compiler::expr::eval::{Env, Value};
use attn_compiler::expr::{ExprId, Pool, TensorId, Ty, UnaryOp, VarId};
use attn_compiler::host::{Data, Inputs, SplitMix, View};
use attn_compiler::lower::{Input, lower, tabulate::tabulate};
use attn_compiler::mask::host::{Class, Classifier, TileGrid};
use attn_compiler::schedule::choose;
use attn_compiler::target::{CpuArch, CpuFacts};
use attn_compiler::tile_ir::{Access, BufId, Program, Stmt, interp, verify::verify};

/// A tile of one panel, and one of four.
const TILES: [(i64, i64); 2] = [(16, 32), (16, 128)];

/// One query head without features to speak of; bits by blocks of 4 rows and 8 keys, a bound for each row.
fn attention(mask: &str, offset: &str, tile: (i64, i64)) -> Attention {
    let text = format!(
        "attention t {{
  vars b: int, h: int, i: int, j: int, row: int, B: int, Sq: int, Sk: int, w: int, qk: float
  dim B = B dim Sq = Sq dim Sk = Sk
  param w = 6
  tensor q: f32[B, 2, Sq, 4]
  tensor k: f32[B, 2, Sk, 4]
  tensor v: f32[B, 2, Sk, 4]
  tensor bits: bit[(Sq + 3) div 4, (Sk + 7) div 8]
  tensor wide: bit[(Sq + 63) div 64, (Sk + 63) div 64]
  tensor seen: bit[B, Sk]
  tensor last: i32[Sq]
  index b, h, i, j, row
  batch B heads 2 kv_heads 2 kv_head h seq_q Sq seq_k Sk offset {offset}
  dot qk = q(batch 0, head 1, seq 2, feature 3) * k(batch 0, head 1, seq 2, feature 3)
  score qk
  mask {mask}
  weight softmax
  value v(batch 0, head 1, seq 2, feature 3)
  output o: f32 = o
  tile_q {} tile_kv {}
}}",
        tile.0, tile.1
    );
    attn_text::parse(&text).unwrap_or_else(|e| panic!("{mask}: {e}"))
}

fn inputs((sq, sk): (usize, usize), seed: u64) -> Inputs {
    let mut rng = SplitMix(seed);
    let mut tensors = HashMap::new();
    let shapes: [(&str, &[usize]); 3] = [("q", &[1, 2, sq, 4]), ("k", &[1, 2, sk, 4]), ("v", &[1, 2, sk, 4])];
    for (name, shape) in shapes {
        tensors.insert(name.to_string(), View::from_fn(shape, |_| rng.normal()));
    }
    // One bit in eight is as its neighbours are not: whole tiles are empty or full.
    let mut bits = |rows: usize, keys: usize, (tile_q, tile_kv): (usize, usize)| {
        let of = |r: usize, k: usize| (r / tile_q * 7 + k / tile_kv * 3) % 4 < 2;
        let data = (0..rows * keys).map(|n| of(n / keys, n % keys) != (rng.below(16) == 0)).collect();
        View::contiguous(vec![rows, keys], Data::Bool(data)).expect("as many as the shape says")
    };
    tensors.insert("bits".into(), bits(sq.div_ceil(4), sk.div_ceil(8), (4, 4)));
    tensors.insert("wide".into(), bits(sq.div_ceil(64), sk.div_ceil(64), (1, 1)));
    tensors.insert("seen".into(), bits(1, sk, (1, 32)));
    let last = (0..sq).map(|r| (r as i64 / 16 * 37 + r as i64 * 5 % 9) % (sk as i64 + 1)).collect();
    tensors.insert("last".into(), View::contiguous(vec![sq], Data::Int(last)).expect("a row each"));
    let dims = [("B", 1), ("Sq", sq), ("Sk", sk)].map(|(d, x)| (d.to_string(), x as i64)).into();
    Inputs { dims, params: HashMap::new(), tensors }
}

/// The values of an attention for the host.
struct Ground<'a> {
    vars: HashMap<VarId, i64>,
    views: Vec<&'a View>,
}

impl Env for Ground<'_> {
    fn var(&self, var: VarId) -> Value {
        Value::Int(self.vars.get(&var).copied().unwrap_or(0))
    }

    fn load(&self, tensor: TensorId, index: &[i64]) -> Value {
        self.views[tensor.0 as usize].get(index).unwrap_or(Value::Bool(false))
    }
}

/// `acc[.., col] += n`
fn count(pool: &mut Pool, acc: BufId, tile_q: i64, col: i64, n: ExprId) -> Stmt {
    let [r, c] = ["cr", "cc"].map(|name| pool.add_var(name, Ty::Int));
    let old = pool.add_var("old", Ty::Float);
    let (at, here, x) = (pool.var(c), pool.int(col), pool.var(old));
    let (is_here, n, zero) = (pool.eq(at, here), pool.unary(UnaryOp::ToFloat, n), pool.float(0.0));
    let more = pool.select(is_here, n, zero);
    let value = pool.add(x, more);
    let (rows, cols) = (pool.int(tile_q), pool.int(4));
    Stmt::Map { dst: acc, rows, cols, row: r, col: c, reads: vec![(old, acc, Access::Tile)], value }
}

/// The product that begins a tile here or, by where keys lie, in a branch: its count of keys.
fn begins(stmt: &Stmt) -> Option<ExprId> {
    match stmt {
        Stmt::Gemm { accumulate: false, n, .. } => Some(*n),
        Stmt::If { then, otherwise, .. } if then.len() == 1 => {
            [then, otherwise].into_iter().find_map(|b| b.first().and_then(begins))
        }
        _ => None,
    }
}

/// Work on a tile becomes counting: in column 0 the tiles that are not skipped, in column 1 those without a mask, in
/// column 2 the keys.
fn counting(pool: &mut Pool, body: Vec<Stmt>, acc: BufId, tile_q: i64) -> Vec<Stmt> {
    let is_step = |s: &Stmt| matches!(s, Stmt::Gemm { .. } | Stmt::If { .. }) && begins(s).is_some();
    let step = body.iter().any(is_step) && body.iter().all(|s| !matches!(s, Stmt::For { .. }));
    let mut out = Vec::new();
    let one = pool.int(1);
    for stmt in body {
        match stmt {
            Stmt::For { var, lo, hi, body } => {
                let body = counting(pool, body, acc, tile_q);
                out.push(Stmt::For { var, lo, hi, body });
            }
            stmt if step && begins(&stmt).is_some() => {
                let n = begins(&stmt).expect("it does");
                out.push(count(pool, acc, tile_q, 0, one));
                out.push(count(pool, acc, tile_q, 2, n));
            }
            Stmt::If { cond, then, .. } if step && matches!(then[..], [Stmt::Map { .. }]) => {
                let then = vec![count(pool, acc, tile_q, 1, one)];
                out.push(Stmt::If { cond, then, otherwise: vec![] });
            }
            Stmt::If { .. } if step => {}
            Stmt::If { cond, then, otherwise } => {
                let [then, otherwise] = [then, otherwise].map(|b| counting(pool, b, acc, tile_q));
                out.push(Stmt::If { cond, then, otherwise });
            }
            Stmt::Gemm { .. } | Stmt::Map { .. } | Stmt::SoftmaxStep { .. } if step => {}
            Stmt::StoreRows { dst, src, rows, d, .. } => {
                out.push(Stmt::StoreRows { dst, src, rows, d, row_scale: None });
            }
            other => out.push(other),
        }
    }
    out
}

fn lowered(attn: &Attention, tile: (i64, i64)) -> Program {
    let mut schedule = {
        let arch = CpuArch::X86_64 { sse41: true, fma: true };
        let facts =
            CpuFacts { arch, l1d: 32 << 10, l2: 1 << 20, l3: 32 << 20, vector_bits: 256, pairs: false };
        choose(attn, &facts).expect("a schedule")
    };
    assert_eq!((schedule.tile_q, schedule.tile_kv), tile);
    // What a row counts is of all its keys: they are one run.
    schedule.fill = None;
    let mut attn = attn.clone();
    let n_tensors = attn.tensors.len() as u32;
    let tables = tabulate(&mut attn, n_tensors, 0).expect("nothing that has no table");
    let mut program = lower(&Input::new(&attn, &tables, &schedule));
    let launch = program.launches.last_mut().expect("the attend launch");
    let acc = launch.buffers.iter().position(|b| b.name == "acc").expect("an accumulator");
    let body = std::mem::take(&mut launch.body);
    launch.body = counting(&mut program.pool, body, BufId(acc as u32), tile.0);
    verify(&program).unwrap_or_else(|e| panic!("{e}"));
    program
}

fn searches(body: &[Stmt]) -> usize {
    let of = |stmt: &Stmt| match stmt {
        Stmt::Any { .. } => 1,
        Stmt::For { body, .. } => searches(body),
        Stmt::If { then, otherwise, .. } => searches(then) + searches(otherwise),
        _ => 0,
    };
    body.iter().map(of).sum()
}

/// Counts of executed and of full tiles and of keys for each row, from the program and from the host; and how many
/// tiles are of each class. What is left of a tile of several panels may be full where the tile is not.
fn compare(mask: &str, offset: &str, sizes: (usize, usize), tile: (i64, i64)) -> (usize, [usize; 3]) {
    let attn = attention(mask, offset, tile);
    let program = lowered(&attn, tile);
    let data = inputs(sizes, 5);
    let found = interp::run(&program, &data, Some(1)).unwrap_or_else(|e| panic!("{mask}: {e}"));
    let mut pool = attn.pool.clone();
    let analysis = analyze_mask(&attn, &mut pool);
    let (sq, sk) = (sizes.0 as i64, sizes.1 as i64);
    let shift = if offset == "0" { 0 } else { sk - sq };
    let grid = TileGrid { seq_q: sq, seq_k: sk, offset: shift, tile_q: tile.0, tile_kv: tile.1, panel: 32 };
    let named = |name: &str| pool.find_var(name).unwrap_or_else(|| panic!("no {name}"));
    let vars = [("B", 1), ("Sq", sq), ("Sk", sk), ("w", 6)].map(|(name, x)| (named(name), x)).into();
    let views = attn.tensors.iter().map(|t| &data.tensors[&t.name]).collect();
    let mut ground = Ground { vars, views };
    let mut total = [0; 3];
    for h in 0..2 {
        ground.vars.insert(attn.index.h, h);
        let map = Classifier::new(&pool, &analysis).map(&grid, &ground);
        for row in 0..sq {
            let q = (row / tile.0) as usize;
            let of = |class| (0..map.n_k_tiles).filter(|&k| map.at(q, k) == class).count();
            let (partial, full) = (of(Class::Partial), of(Class::Full));
            let at = |col| found["o"].get(&[0, h, row, col]).expect("an element").float();
            let keys: i64 = map.n_keys.chunks(map.n_k_tiles).nth(q).map_or(0, |keys| keys.iter().sum());
            let what = format!("{mask}: head {h}, row {row}, tiles {tile:?}");
            assert_eq!((at(0), at(2)), ((partial + full) as f64, keys as f64), "{what}");
            let one_panel = tile.1 == 32;
            assert!(at(1) == full as f64 || (!one_panel && at(1) > full as f64), "{what}: {} {full}", at(1));
        }
        let n = [Class::Empty, Class::Partial, Class::Full].map(|class| map.count(class));
        total = std::array::from_fn(|c| total[c] + n[c]);
    }
    (searches(&program.launches.last().expect("a launch").body), total)
}

#[test]
fn a_kernel_skips_what_the_host_says() {
    for (mask, searched) in [
        ("j <= i & i - w < j", false),
        ("(i - j) mod 3 == 0 | j < w", false),
        ("wide[row div 64, j div 64]", false),
        ("rand_block(row div 64, j div 64, (Sk + 63) div 64, h, 2, 7)", false),
        ("bits[row div 4, j div 8]", true),
        ("bits[row div 4, j div 8] & j <= i", true),
        ("!bits[row div 4, j div 8] | (h == 0 & i - j < w)", true),
        ("seen[b, j]", true),
        ("seen[b, j] & bits[row div 4, j div 8]", true),
        ("j < last[row]", true),
        ("j < last[row] & bits[row div 4, j div 8]", true),
        ("bits[row div w, j div 8]", true),
        ("bits[row div 4, (j + 3) div 12] | last[row] <= j", true),
        ("rand_block(i div 8, j div 8, (Sk + 7) div 8, h, 4, 3) | j < 3", true),
    ] {
        let mut classes = [0; 3];
        for (offset, sizes) in
            [("0", (70, 150)), ("Sk - Sq", (70, 150)), ("Sk - Sq", (33, 33)), ("0", (1, 1)), ("0", (70, 300))]
        {
            for tile in TILES {
                let (n, some) = compare(mask, offset, sizes, tile);
                // A tile of four panels may straddle blocks that a tile of one does not.
                assert!(n == if searched { 2 } else { 0 } || (n == 2 && tile.1 > 32), "{mask}");
                classes = std::array::from_fn(|c| classes[c] + some[c]);
            }
        }
        println!("{mask}: {classes:?} tiles are empty, partial, full");
        assert!(classes[1] + classes[2] > 0 && classes[0] + classes[2] > 0, "{mask}: {classes:?}");
    }
}
