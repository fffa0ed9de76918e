//! Evaluation of many tiles (or cells) on the host: expressions as a flat tape, a row of tiles at a time.
//!
//! Comes in: expressions and the variables that change from row to row and from lane to lane. Goes out: their
//! values for every lane, bit for bit those of `expr::eval`. What changes in neither is computed once per
//! [`Tape::bind`], what changes by row once per row. Both branches of a choice are evaluated, so the
//! environment must return something for any index. Not here: threads, and anything emitted.

use super::MaskAnalysis;
use super::cuts::{Axis, MAX_PARTS};
use crate::expr::eval::{Env, Value, binary, floor_div, unary};
use crate::expr::rand::rand_block_contains;
use crate::expr::{BinaryOp, ExprId, Op, Pool, TensorId, Ty, UnaryOp, VarId};

/// How often a node is computed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rate {
    Once,
    Row,
    Lane,
}

struct Instr {
    op: Op,
    /// Positions on the tape of the operands.
    args: Vec<usize>,
    /// Of the first operand, and of the result.
    ty: (Ty, Ty),
    rate: Rate,
}

/// Expressions in evaluation order, with a register of one or many lanes for each.
pub struct Tape {
    code: Vec<Instr>,
    roots: Vec<usize>,
    row_vars: Vec<VarId>,
    lane_vars: Vec<VarId>,
    scalars: Vec<i64>,
    lanes: Vec<Vec<i64>>,
}

fn bits(value: Value) -> i64 {
    match value {
        Value::Bool(x) => i64::from(x),
        Value::Int(x) => x,
        Value::Float(x) => x.to_bits() as i64,
    }
}

fn value(ty: Ty, bits: i64) -> Value {
    match ty {
        Ty::Bool => Value::Bool(bits != 0),
        Ty::Int => Value::Int(bits),
        Ty::Float => Value::Float(f64::from_bits(bits as u64)),
    }
}

/// An operand: the same for all lanes, or one for each.
#[derive(Clone, Copy)]
enum Operand<'a> {
    Same(i64),
    Each(&'a [i64]),
}

impl Operand<'_> {
    fn at(self, lane: usize) -> i64 {
        match self {
            Operand::Same(x) => x,
            Operand::Each(v) => v[lane],
        }
    }
}

fn zip(out: &mut [i64], a: Operand, b: Operand, f: impl Fn(i64, i64) -> i64) {
    match (a, b) {
        (Operand::Each(a), Operand::Each(b)) => {
            out.iter_mut().zip(a.iter().zip(b)).for_each(|(o, (&a, &b))| *o = f(a, b));
        }
        (Operand::Each(a), Operand::Same(b)) => out.iter_mut().zip(a).for_each(|(o, &a)| *o = f(a, b)),
        (Operand::Same(a), Operand::Each(b)) => out.iter_mut().zip(b).for_each(|(o, &b)| *o = f(a, b)),
        (Operand::Same(a), Operand::Same(b)) => out.fill(f(a, b)),
    }
}

fn int_lanes(op: BinaryOp, out: &mut [i64], a: Operand, b: Operand) {
    use BinaryOp::*;
    match op {
        Add => zip(out, a, b, i64::wrapping_add),
        Sub => zip(out, a, b, i64::wrapping_sub),
        Mul => zip(out, a, b, i64::wrapping_mul),
        IDiv => zip(out, a, b, floor_div),
        Min => zip(out, a, b, i64::min),
        Max => zip(out, a, b, i64::max),
        Lt => zip(out, a, b, |a, b| i64::from(a < b)),
        Le => zip(out, a, b, |a, b| i64::from(a <= b)),
        Eq => zip(out, a, b, |a, b| i64::from(a == b)),
        Ne => zip(out, a, b, |a, b| i64::from(a != b)),
        And => zip(out, a, b, |a, b| a & b),
        Or => zip(out, a, b, |a, b| a | b),
        Mod | Div | Pow => zip(out, a, b, |a, b| bits(binary(op, Value::Int(a), Value::Int(b)))),
    }
}

impl Tape {
    /// A tape that computes `roots`; `row_vars` and `lane_vars` are given by position to [`Tape::run`], all
    /// other variables come from the environment.
    pub fn new(pool: &Pool, roots: &[ExprId], row_vars: &[VarId], lane_vars: &[VarId]) -> Tape {
        let order = pool.reachable(roots);
        let mut place = vec![0; pool.len()];
        let mut code: Vec<Instr> = Vec::with_capacity(order.len());
        for (n, &id) in order.iter().enumerate() {
            place[id.0 as usize] = n;
            let operands = pool.operands(id);
            let args: Vec<usize> = operands.iter().map(|x| place[x.0 as usize]).collect();
            let own = match pool.op(id) {
                Op::Var(v) if row_vars.contains(v) => Rate::Row,
                Op::Var(v) if lane_vars.contains(v) => Rate::Lane,
                _ => Rate::Once,
            };
            let rate = args.iter().map(|&a| code[a].rate).max().map_or(own, |r| r.max(own));
            let ty = (operands.first().map_or(pool.ty(id), |&x| pool.ty(x)), pool.ty(id));
            code.push(Instr { op: pool.op(id).clone(), args, ty, rate });
        }
        let n = code.len();
        Tape {
            code,
            roots: roots.iter().map(|r| place[r.0 as usize]).collect(),
            row_vars: row_vars.to_vec(),
            lane_vars: lane_vars.to_vec(),
            scalars: vec![0; n],
            lanes: vec![Vec::new(); n],
        }
    }

    /// Computes what depends on neither rows nor lanes.
    pub fn bind(&mut self, env: &dyn Env) {
        self.scalar_pass(Rate::Once, &[], env);
    }

    /// Computes a row: a value for each row variable, and for each lane variable one value per lane. The
    /// environment must be the one bound.
    pub fn run(&mut self, row: &[i64], lanes: &[&[i64]], env: &dyn Env) {
        self.scalar_pass(Rate::Row, row, env);
        let n = lanes.first().map_or(1, |l| l.len());
        for at in 0..self.code.len() {
            if self.code[at].rate == Rate::Lane {
                let mut out = std::mem::take(&mut self.lanes[at]);
                out.resize(n, 0);
                self.lane_instr(at, lanes, env, &mut out);
                self.lanes[at] = out;
            }
        }
    }

    /// The value of a root (0 or 1 for bools) in a lane of the last row.
    pub fn get(&self, root: usize, lane: usize) -> i64 {
        self.operand(self.roots[root]).at(lane)
    }

    fn operand(&self, at: usize) -> Operand<'_> {
        if self.code[at].rate == Rate::Lane {
            Operand::Each(&self.lanes[at])
        } else {
            Operand::Same(self.scalars[at])
        }
    }

    fn scalar_pass(&mut self, rate: Rate, row: &[i64], env: &dyn Env) {
        for at in 0..self.code.len() {
            let instr = &self.code[at];
            if instr.rate != rate {
                continue;
            }
            self.scalars[at] = match &instr.op {
                Op::Var(v) => match self.row_vars.iter().position(|w| w == v) {
                    Some(n) => row[n],
                    None => bits(env.var(*v)),
                },
                op => general(op, instr.ty, |k| self.scalars[instr.args[k]], env),
            };
        }
    }

    fn lane_instr(&self, at: usize, lanes: &[&[i64]], env: &dyn Env, out: &mut [i64]) {
        let instr = &self.code[at];
        let arg = |k: usize| self.operand(instr.args[k]);
        match &instr.op {
            Op::Var(v) => {
                if let Some(n) = self.lane_vars.iter().position(|w| w == v) {
                    out.copy_from_slice(lanes[n]);
                }
            }
            Op::Binary(op, ..) if instr.ty.0 != Ty::Float => int_lanes(*op, out, arg(0), arg(1)),
            Op::Unary(UnaryOp::Not, _) => zip(out, arg(0), Operand::Same(1), |a, b| a ^ b),
            Op::Select(..) => {
                let (c, a, b) = (arg(0), arg(1), arg(2));
                for (lane, o) in out.iter_mut().enumerate() {
                    *o = if c.at(lane) != 0 { a.at(lane) } else { b.at(lane) };
                }
            }
            op => {
                for (lane, o) in out.iter_mut().enumerate() {
                    *o = general(op, instr.ty, |k| arg(k).at(lane), env);
                }
            }
        }
    }
}

/// Any operation with operands, one lane of it.
fn general(op: &Op, ty: (Ty, Ty), arg: impl Fn(usize) -> i64, env: &dyn Env) -> i64 {
    match op {
        Op::Int(x) => *x,
        Op::Bool(x) => i64::from(*x),
        Op::Float(x) => x.0 as i64,
        Op::Var(v) => bits(env.var(*v)),
        Op::Load(t, index, _) => load(*t, index.len(), arg, env),
        Op::Unary(op, _) => bits(unary(*op, value(ty.0, arg(0)))),
        Op::Binary(op, ..) => bits(binary(*op, value(ty.0, arg(0)), value(ty.0, arg(1)))),
        Op::Select(..) => arg(if arg(0) != 0 { 1 } else { 2 }),
        Op::RandBlock(_) => i64::from(rand_block_contains(arg(0), arg(1), arg(2), arg(3), arg(4), arg(5))),
        // Stands in tables only, never in a mask.
        Op::RandBlockExcept(_) => 0,
    }
}

fn load(tensor: TensorId, rank: usize, arg: impl Fn(usize) -> i64, env: &dyn Env) -> i64 {
    let mut index = [0; 8];
    if let Some(at) = index.get_mut(..rank) {
        at.iter_mut().enumerate().for_each(|(k, x)| *x = arg(k));
        bits(env.load(tensor, at))
    } else {
        bits(env.load(tensor, &(0..rank).map(arg).collect::<Vec<_>>()))
    }
}

/// What a tile holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub enum Class {
    /// No pair of the tile is in the mask.
    Empty,
    /// The element predicate decides.
    Partial,
    /// Every pair is in the mask.
    Full,
}

/// Sizes of a mask and of its tiles; the last tiles may be ragged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TileGrid {
    /// Query rows.
    pub seq_q: i64,
    /// Keys.
    pub seq_k: i64,
    /// Logical position of row 0.
    pub offset: i64,
    /// Rows of a tile.
    pub tile_q: i64,
    /// Keys of a tile.
    pub tile_kv: i64,
    /// Keys of a panel: of a partial tile, what lies before the first and after the last panel that may hold a pair
    /// is left out. `tile_kv` where tiles are taken whole.
    pub panel: i64,
}

impl TileGrid {
    /// Inclusive ends of each tile along the queries (logical positions).
    pub fn query_tiles(&self) -> Vec<(i64, i64)> {
        tiles(self.seq_q, self.tile_q).map(|(lo, hi)| (lo + self.offset, hi + self.offset)).collect()
    }

    /// Inclusive ends of each tile along the keys.
    pub fn key_tiles(&self) -> Vec<(i64, i64)> {
        tiles(self.seq_k, self.tile_kv).collect()
    }
}

fn tiles(n: i64, tile: i64) -> impl Iterator<Item = (i64, i64)> {
    let tile = tile.max(1);
    (0..n.max(0)).step_by(tile as usize).map(move |lo| (lo, (lo + tile).min(n) - 1))
}

/// The class of every tile, for one batch element and head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TileMap {
    /// Tiles along the queries.
    pub n_q_tiles: usize,
    /// Tiles along the keys.
    pub n_k_tiles: usize,
    /// Row-major: all key tiles of the first query tile first.
    pub class: Vec<Class>,
    /// Keys that are worked on, of each tile in the same order.
    pub n_keys: Vec<i64>,
}

impl TileMap {
    /// Number of tiles of a class.
    pub fn count(&self, class: Class) -> usize {
        self.class.iter().filter(|&&c| c == class).count()
    }

    /// Class of a tile.
    pub fn at(&self, q_tile: usize, k_tile: usize) -> Class {
        self.class[q_tile * self.n_k_tiles + k_tile]
    }
}

/// Classifies the tiles of a mask on the host; made once, used for every (b, h) and size.
pub struct Classifier {
    tape: Tape,
    /// Shift and divisor of each cut, in turns.
    cut_tape: Tape,
    axes: Vec<Axis>,
}

/// A run of positions, both ends included.
type Span = (i64, i64);

impl Classifier {
    /// Prepares the predicates of an analysis.
    pub fn new(pool: &Pool, mask: &MaskAnalysis) -> Classifier {
        let [i_lo, i_hi, j_lo, j_hi] = mask.corners();
        let (may, must) = mask.symbolic();
        let cuts: Vec<ExprId> = mask.cuts().iter().flat_map(|c| [c.shift, c.by]).collect();
        Classifier {
            tape: Tape::new(pool, &[may, must], &[i_lo, i_hi], &[j_lo, j_hi]),
            cut_tape: Tape::new(pool, &cuts, &[], &[]),
            axes: mask.cuts().iter().map(|c| c.axis).collect(),
        }
    }

    /// The class of every tile; `env` gives b, h, dims, parameters and tensors.
    pub fn map(&mut self, grid: &TileGrid, env: &dyn Env) -> TileMap {
        let (queries, keys) = (grid.query_tiles(), grid.key_tiles());
        let (lo, hi): (Vec<i64>, Vec<i64>) = keys.iter().copied().unzip();
        let mut class = Vec::with_capacity(queries.len() * keys.len());
        let mut n_keys = Vec::with_capacity(class.capacity());
        if !keys.is_empty() && !queries.is_empty() {
            self.tape.bind(env);
            self.cut_tape.bind(env);
        }
        for &(i_lo, i_hi) in queries.iter().filter(|_| !keys.is_empty()) {
            self.tape.run(&[i_lo, i_hi], &[&lo, &hi], env);
            let first = class.len();
            class.extend((0..keys.len()).map(|k| match (self.tape.get(0, k), self.tape.get(1, k)) {
                (0, _) => Class::Empty,
                (_, 0) => Class::Partial,
                _ => Class::Full,
            }));
            if !self.axes.is_empty() {
                self.look_closer((i_lo, i_hi), &keys, &mut class[first..], env);
            }
            n_keys.extend(self.clip((i_lo, i_hi), &keys, &mut class[first..], (grid.panel, env)));
        }
        TileMap { n_q_tiles: queries.len(), n_k_tiles: keys.len(), class, n_keys }
    }

    /// How many keys are worked on of each tile of a row; a partial tile without any is empty.
    fn clip(
        &mut self,
        (i_lo, i_hi): Span,
        keys: &[Span],
        class: &mut [Class],
        (panel, env): (i64, &dyn Env),
    ) -> Vec<i64> {
        let open: Vec<usize> = (0..keys.len()).filter(|&k| class[k] == Class::Partial).collect();
        let panel = panel.max(1);
        let of = |k: usize| {
            let (first, last) = keys[k];
            (first..=last).step_by(panel as usize).map(move |lo| (lo, (lo + panel - 1).min(last)))
        };
        let panels: Vec<(usize, Span)> = open.iter().flat_map(|&k| of(k).map(move |p| (k, p))).collect();
        let (lo, hi): (Vec<i64>, Vec<i64>) = panels.iter().map(|p| p.1).unzip();
        self.tape.run(&[i_lo, i_hi], &[&lo, &hi], env);
        let mut kept: Vec<Option<Span>> = vec![None; keys.len()];
        for (n, &(k, (lo, hi))) in panels.iter().enumerate() {
            if self.tape.get(0, n) != 0 {
                kept[k] = Some((kept[k].map_or(lo, |span| span.0), hi));
            }
        }
        for k in open {
            if kept[k].is_none() {
                class[k] = Class::Empty;
            }
        }
        let len = |(lo, hi): Span| hi - lo + 1;
        let n = |k: usize| match class[k] {
            Class::Empty => 0,
            Class::Partial => kept[k].map_or(0, len),
            Class::Full => len(keys[k]),
        };
        (0..keys.len()).map(n).collect()
    }

    /// Judges the partial tiles of a row by their parts.
    fn look_closer(&mut self, rows: Span, keys: &[Span], class: &mut [Class], env: &dyn Env) {
        let n_rows = self.n_parts(Axis::Queries, rows);
        let few = |n: i64| (2..=MAX_PARTS).contains(&n_rows.saturating_mul(n));
        // The parts of every tile that is open, with the number of the tile.
        let (mut tiles, mut parts) = (Vec::new(), Vec::new());
        for (k, &tile) in keys.iter().enumerate() {
            if class[k] == Class::Partial && few(self.n_parts(Axis::Keys, tile)) {
                let spans = self.parts(Axis::Keys, tile);
                tiles.extend(std::iter::repeat_n(k, spans.len()));
                parts.extend(spans);
            }
        }
        let (mut some, mut gap) = (vec![false; keys.len()], vec![false; keys.len()]);
        for (i_lo, i_hi) in self.parts(Axis::Queries, rows) {
            let (lo, hi): (Vec<i64>, Vec<i64>) = parts.iter().copied().unzip();
            self.tape.run(&[i_lo, i_hi], &[&lo, &hi], env);
            for (n, &k) in tiles.iter().enumerate() {
                some[k] |= self.tape.get(0, n) != 0;
                gap[k] |= self.tape.get(1, n) == 0;
            }
            let mut open = tiles.iter().map(|&k| !(some[k] && gap[k]));
            parts.retain(|_| open.next().unwrap_or(false));
            tiles.retain(|&k| !(some[k] && gap[k]));
            if tiles.is_empty() {
                break;
            }
        }
        for k in tiles {
            class[k] = if some[k] { Class::Full } else { Class::Empty };
        }
    }

    fn cuts(&self, axis: Axis) -> impl Iterator<Item = (i64, i64)> {
        let at = (0..self.axes.len()).filter(move |&n| self.axes[n] == axis);
        at.map(|n| (self.cut_tape.get(2 * n, 0), self.cut_tape.get(2 * n + 1, 0).max(1)))
    }

    /// At most how many parts a run of positions has.
    fn n_parts(&self, axis: Axis, (lo, hi): Span) -> i64 {
        let block = |x: i64, (shift, by)| floor_div(x.wrapping_add(shift), by);
        self.cuts(axis).fold(1, |n, cut| n.saturating_add(block(hi, cut).saturating_sub(block(lo, cut))))
    }

    /// The parts of a run of positions.
    fn parts(&self, axis: Axis, (lo, hi): Span) -> Vec<Span> {
        let mut out = Vec::new();
        let mut first = lo;
        while first <= hi {
            let end = |(shift, by)| {
                let block = floor_div(first.wrapping_add(shift), by);
                (block + 1).wrapping_mul(by).wrapping_sub(shift).wrapping_sub(1)
            };
            let ends = self.cuts(axis).map(end).filter(|&end| end >= first);
            let last = ends.fold(hi, i64::min);
            out.push((first, last));
            first = last + 1;
        }
        out
    }
}
