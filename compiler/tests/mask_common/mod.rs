//! What the tests of the mask analysis share: a mask at concrete sizes, its brute-force bitmap, and the comparison
//! of the two.
//!
//! A [`Case`] holds a mask with every value it needs; [`Truth`] evaluates it cell by cell; [`compare`] counts the
//! tiles on which the analysis is exact, misses something, or is wrong.

#![allow(dead_code, reason = "each test uses its part")]

pub mod generate;

use attn_compiler::attn_ir::Fact;
use attn_compiler::expr::eval::{Env, Value};
use attn_compiler::expr::parse::{Reader, expr};
use attn_compiler::expr::{ExprId, Pool, TensorId, Ty, VarId};
use attn_compiler::mask::host::{Class, Classifier, Tape, TileGrid, TileMap};
use attn_compiler::mask::{Facts, MaskAnalysis, TensorFacts, analyze};

/// An int or bit tensor.
pub struct HostTensor {
    pub name: String,
    pub shape: Vec<i64>,
    pub data: Vec<i64>,
    pub bit: bool,
    pub fact: Fact,
}

/// A mask at concrete sizes.
pub struct Case {
    pub pool: Pool,
    pub mask: ExprId,
    pub i: VarId,
    pub j: VarId,
    pub row: VarId,
    pub offset: ExprId,
    pub shapes: Vec<Vec<ExprId>>,
    pub values: Values,
    pub grid: TileGrid,
}

/// Values of variables and tensors.
pub struct Values {
    pub vars: Vec<Value>,
    pub tensors: Vec<HostTensor>,
}

impl Env for Values {
    fn var(&self, var: VarId) -> Value {
        self.vars.get(var.0 as usize).copied().unwrap_or(Value::Int(0))
    }

    fn load(&self, tensor: TensorId, index: &[i64]) -> Value {
        let t = &self.tensors[tensor.0 as usize];
        let mut at = 0;
        let mut inside = true;
        for (&x, &n) in index.iter().zip(&t.shape) {
            inside &= (0..n).contains(&x);
            at = at * n + x;
        }
        let x = if inside { t.data[at as usize] } else { 0 };
        if t.bit { Value::Bool(x != 0) } else { Value::Int(x) }
    }
}

impl Values {
    /// Adds a variable with its value.
    pub fn add(&mut self, pool: &mut Pool, name: &str, value: Value) -> VarId {
        let var = pool.add_var(name, value.ty());
        self.vars.resize(var.0 as usize + 1, Value::Int(0));
        self.vars[var.0 as usize] = value;
        var
    }
}

/// A pool with the index variables, dims and parameters of a case, before its mask.
pub struct Builder {
    pub pool: Pool,
    pub values: Values,
    pub grid: TileGrid,
    pub i: VarId,
    pub j: VarId,
    pub row: VarId,
    pub offset: ExprId,
}

impl Builder {
    /// Index variables, `Sq` and `Sk`; `i = row + Sk - Sq` where `bottom_right`.
    pub fn new(seq_q: i64, seq_k: i64, tile: (i64, i64), bottom_right: bool) -> Builder {
        let mut pool = Pool::new();
        let mut values = Values { vars: vec![], tensors: vec![] };
        let [i, j, row] = ["i", "j", "row"].map(|n| values.add(&mut pool, n, Value::Int(0)));
        let sq = values.add(&mut pool, "Sq", Value::Int(seq_q));
        let sk = values.add(&mut pool, "Sk", Value::Int(seq_k));
        let (sq, sk) = (pool.var(sq), pool.var(sk));
        let offset = if bottom_right { pool.sub(sk, sq) } else { pool.int(0) };
        let shift = if bottom_right { seq_k - seq_q } else { 0 };
        let grid = TileGrid { seq_q, seq_k, offset: shift, tile_q: tile.0, tile_kv: tile.1, panel: tile.1 };
        Builder { pool, values, grid, i, j, row, offset }
    }

    /// Adds a tensor.
    pub fn tensor(&mut self, name: &str, shape: &[i64], bit: bool, fact: Fact, data: Vec<i64>) -> TensorId {
        let name = name.to_string();
        self.values.tensors.push(HostTensor { name, shape: shape.to_vec(), data, bit, fact });
        TensorId(self.values.tensors.len() as u32 - 1)
    }

    /// Reads a mask in the text form of expressions.
    pub fn parse(&mut self, text: &str) -> ExprId {
        let names: Vec<(String, bool)> =
            self.values.tensors.iter().map(|t| (t.name.clone(), t.bit)).collect();
        let lookup = |name: &str| {
            let at = names.iter().position(|(n, _)| n == name)?;
            Some((TensorId(at as u32), if names[at].1 { Ty::Bool } else { Ty::Int }))
        };
        match expr(&mut Reader::new(text), &mut self.pool, &lookup) {
            Ok(id) => id,
            Err(e) => panic!("{text}: {e}"),
        }
    }

    /// The finished case.
    pub fn finish(mut self, mask: ExprId) -> Case {
        let shapes =
            self.values.tensors.iter().map(|t| t.shape.iter().map(|&n| self.pool.int(n)).collect()).collect();
        let Builder { pool, values, grid, i, j, row, offset } = self;
        Case { pool, mask, i, j, row, offset, shapes, values, grid }
    }
}

impl Case {
    /// Runs the analysis.
    pub fn analyze(&mut self) -> MaskAnalysis {
        let (shapes, tensors) = (&self.shapes, &self.values.tensors);
        let lookup = |t: TensorId| {
            let at = t.0 as usize;
            TensorFacts { fact: tensors[at].fact, shape: shapes[at].clone() }
        };
        let facts = Facts { i: self.i, j: self.j, row: self.row, offset: self.offset, tensors: &lookup };
        analyze(&mut self.pool, self.mask, &facts)
    }

    /// The classes that the analysis finds.
    pub fn tile_map(&self, analysis: &MaskAnalysis) -> TileMap {
        Classifier::new(&self.pool, analysis).map(&self.grid, &self.values)
    }
}

/// The mask cell by cell.
pub struct Truth {
    pub n_k: usize,
    pub cells: Vec<bool>,
    /// Cells set in the rectangle from the origin: `(n_q + 1) x (n_k + 1)`.
    sums: Vec<u32>,
}

impl Truth {
    /// Evaluates every cell.
    pub fn new(case: &Case) -> Truth {
        let g = case.grid;
        let (n_q, n_k) = (g.seq_q as usize, g.seq_k as usize);
        let mut tape = Tape::new(&case.pool, &[case.mask], &[case.i, case.row], &[case.j]);
        tape.bind(&case.values);
        let keys: Vec<i64> = (0..g.seq_k).collect();
        let mut cells = Vec::with_capacity(n_q * n_k);
        let mut sums = vec![0; (n_q + 1) * (n_k + 1)];
        for row in 0..n_q {
            tape.run(&[row as i64 + g.offset, row as i64], &[&keys], &case.values);
            let mut run = 0;
            for k in 0..n_k {
                let set = tape.get(0, k) != 0;
                cells.push(set);
                run += u32::from(set);
                sums[(row + 1) * (n_k + 1) + k + 1] = sums[row * (n_k + 1) + k + 1] + run;
            }
        }
        Truth { n_k, cells, sums }
    }

    /// Cells set in `rows x keys`, both half open.
    pub fn count(&self, rows: (usize, usize), keys: (usize, usize)) -> usize {
        let at = |r: usize, k: usize| self.sums[r * (self.n_k + 1) + k] as usize;
        at(rows.1, keys.1) + at(rows.0, keys.0) - at(rows.0, keys.1) - at(rows.1, keys.0)
    }

    /// The true class of a tile given by its inclusive ends (rows, not positions).
    pub fn class(&self, rows: (i64, i64), keys: (i64, i64)) -> Class {
        let (rows, keys) = ((rows.0 as usize, rows.1 as usize + 1), (keys.0 as usize, keys.1 as usize + 1));
        match self.count(rows, keys) {
            0 => Class::Empty,
            n if n == (rows.1 - rows.0) * (keys.1 - keys.0) => Class::Full,
            _ => Class::Partial,
        }
    }

    /// Inclusive hull of the keys seen by some of the rows.
    pub fn key_hull(&self, rows: (i64, i64)) -> Option<(i64, i64)> {
        let any = |k: usize| self.count((rows.0 as usize, rows.1 as usize + 1), (k, k + 1)) > 0;
        let lo = (0..self.n_k).find(|&k| any(k))?;
        let hi = (0..self.n_k).rev().find(|&k| any(k))?;
        Some((lo as i64, hi as i64))
    }

    /// Inclusive hull of the rows that see some of the keys.
    pub fn row_hull(&self, keys: (i64, i64)) -> Option<(i64, i64)> {
        let n_q = self.cells.len() / self.n_k.max(1);
        let any = |r: usize| self.count((r, r + 1), (keys.0 as usize, keys.1 as usize + 1)) > 0;
        let lo = (0..n_q).find(|&r| any(r))?;
        let hi = (0..n_q).rev().find(|&r| any(r))?;
        Some((lo as i64, hi as i64))
    }
}

/// How the analysis compares with the truth.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub tiles: usize,
    pub exact: usize,
    /// Tiles called empty or full that are not.
    pub unsound: usize,
    pub missed_empty: usize,
    pub missed_full: usize,
    pub empty: usize,
    pub full: usize,
    /// Hulls of keys or queries that leave out one that is seen.
    pub hull_wrong: usize,
    pub hulls: usize,
    pub hull_exact: usize,
}

impl Tally {
    /// Adds up.
    pub fn add(&mut self, o: &Tally) {
        self.tiles += o.tiles;
        self.exact += o.exact;
        self.unsound += o.unsound;
        self.missed_empty += o.missed_empty;
        self.missed_full += o.missed_full;
        self.empty += o.empty;
        self.full += o.full;
        self.hull_wrong += o.hull_wrong;
        self.hulls += o.hulls;
        self.hull_exact += o.hull_exact;
    }

    /// Share of the tiles that are exact, in percent.
    pub fn percent(&self) -> f64 {
        100.0 * self.exact as f64 / self.tiles.max(1) as f64
    }

    fn hull(&mut self, found: (i64, i64), truth: Option<(i64, i64)>) {
        self.hulls += 1;
        let empty = found.0 > found.1;
        match truth {
            None => self.hull_exact += usize::from(empty),
            Some(t) => {
                self.hull_wrong += usize::from(empty || found.0 > t.0 || found.1 < t.1);
                self.hull_exact += usize::from(found == t);
            }
        }
    }
}

/// Classifies every tile and compares; hulls are taken for each tile of queries against all keys, and for each
/// tile of keys against all queries.
pub fn compare(case: &Case, analysis: &MaskAnalysis, truth: &Truth) -> Tally {
    let map = case.tile_map(analysis);
    let mut out = Tally::default();
    let (queries, keys) = (case.grid.query_tiles(), case.grid.key_tiles());
    let offset = case.grid.offset;
    for (q, &(i_lo, i_hi)) in queries.iter().enumerate() {
        for (k, &keys) in keys.iter().enumerate() {
            let truth = truth.class((i_lo - offset, i_hi - offset), keys);
            let found = map.at(q, k);
            out.tiles += 1;
            out.exact += usize::from(truth == found);
            out.unsound += usize::from(truth != found && found != Class::Partial);
            out.empty += usize::from(truth == Class::Empty);
            out.full += usize::from(truth == Class::Full);
            out.missed_empty += usize::from(truth == Class::Empty && found == Class::Partial);
            out.missed_full += usize::from(truth == Class::Full && found == Class::Partial);
        }
    }
    hulls(case, analysis, truth, &mut out);
    out
}

fn hulls(case: &Case, analysis: &MaskAnalysis, truth: &Truth, out: &mut Tally) {
    let [i_lo, i_hi, j_lo, j_hi] = analysis.corners();
    let ((kl, kh), (ql, qh)) = analysis.symbolic_ranges();
    let mut tape = Tape::new(&case.pool, &[kl, kh, ql, qh], &[i_lo, i_hi], &[j_lo, j_hi]);
    tape.bind(&case.values);
    let g = case.grid;
    for (lo, hi) in g.query_tiles() {
        tape.run(&[lo, hi], &[&[0], &[g.seq_k - 1]], &case.values);
        out.hull((tape.get(0, 0), tape.get(1, 0)), truth.key_hull((lo - g.offset, hi - g.offset)));
    }
    for (lo, hi) in g.key_tiles() {
        tape.run(&[g.offset, g.offset + g.seq_q - 1], &[&[lo], &[hi]], &case.values);
        let rows = (tape.get(2, 0) - g.offset, tape.get(3, 0) - g.offset);
        out.hull(rows, truth.row_hull((lo, hi)));
    }
}
