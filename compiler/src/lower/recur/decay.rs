//! Products of the decays of consecutive steps.
//!
//! Comes in: the decay of a state at each step. Goes out: expressions and tensors that hold the products over the
//! steps of a chunk. What holds: only products with non-negative powers are formed, never quotients or logarithms, so
//! a decay of 0 is exact and nothing overflows that the recurrence itself would not. Powers of a decay that is fixed
//! by dims and params come from a table made at bind in f64; where the decay is written `exp(e)`, products are
//! exponentials of sums of e, which keeps decays close to 1 accurate; other products are scans, near 1 of what is
//! missing to 1. Where all chunks decay alike, the rounding of that one number would add up over them: what it lacks
//! is handed on from chunk to chunk ([`Powers::total`]). Not here: how they are used.

use super::emit::{Emit, LANES};
use super::rows::Place;
use crate::artifact::DType;
use crate::attn_ir::Fact;
use crate::attn_ir::recur::Recurrence;
use crate::expr::{BinaryOp, ExprId, Op, Pool, TensorId, Ty, UnaryOp};
use crate::tile_ir::{Launch, Program, RowsRef, Stmt, TensorDecl, TensorKind};

/// Chunks that one task of the preparing launch takes.
const CHUNKS: i64 = 64;

/// Products of decays, as they can be read.
#[derive(Clone, Copy)]
pub enum Decay {
    /// Every decay is 1.
    One,
    /// The same at every step: powers.
    Constant(Powers),
    /// Another at every step.
    Each(EachStep),
}

/// Powers 0..=32 of a decay.
#[derive(Clone, Copy)]
pub enum Powers {
    /// `exp(e * k)`, e over b and h.
    Exp(ExprId),
    /// f32 `[B, H, 33]`, and what the rounding of each has lost.
    Tensor(TensorId, TensorId),
}

/// Tensors of a decay that changes from step to step.
#[derive(Clone, Copy)]
pub struct EachStep {
    /// The decay is the exponential of `step`.
    pub exp: bool,
    /// The decay, or what it is the exponential of, f32 `[B, H, S]`.
    pub step: TensorId,
    /// Product from the first step of the chunk through this one, f32 `[B, H, S]`.
    pub through: TensorId,
    /// Product of the last k steps of a chunk, at k behind the chunk's first step, f32 `[B, H, S + 32]`.
    pub last: TensorId,
}

/// Makes what is needed of a decay; launches are added to the program.
pub fn prepare(program: &mut Program, r: &Recurrence, name: &str, decay: ExprId) -> Decay {
    if program.pool.as_const(decay).is_some_and(|v| v.float() == 1.0) {
        return Decay::One;
    }
    let exponent = match program.pool.op(decay) {
        Op::Unary(UnaryOp::Exp, e) => Some(*e),
        _ => None,
    };
    if program.pool.depends_on(decay, &[r.vars.t]) {
        return Decay::Each(each_step(program, r, name, decay, exponent));
    }
    if !super::loads(program, decay) {
        return Decay::Constant(table(program, r, name, decay));
    }
    match exponent {
        Some(e) => Decay::Constant(Powers::Exp(e)),
        None => Decay::Constant(powers(program, r, name, decay)),
    }
}

impl Powers {
    /// Power k at a place.
    pub fn at(self, r: &Recurrence, pool: &mut Pool, at: Place, k: ExprId) -> ExprId {
        match self {
            Powers::Tensor(t, _) => pool.load(t, vec![at.b, at.h, k], Ty::Float),
            Powers::Exp(e) => {
                let sum = exponent(r, pool, at, e, k);
                pool.unary(UnaryOp::Exp, sum)
            }
        }
    }

    /// The factor of the state in chunk number `chunk` of n steps: power n, rounded up or down so that the product
    /// over all chunks so far is as close as one rounding (error diffusion; only powers from 1/2 to 2 need it: smaller
    /// ones are soon forgotten, larger ones soon overflow).
    pub fn total(self, r: &Recurrence, pool: &mut Pool, at: Place, n: ExprId, chunk: ExprId) -> ExprId {
        let (near, rest) = match self {
            Powers::Tensor(power, rest) => {
                let index = vec![at.b, at.h, n];
                (pool.load(power, index.clone(), Ty::Float), pool.load(rest, index, Ty::Float))
            }
            Powers::Exp(e) => {
                let x = exponent(r, pool, at, e, n);
                let d = expm1(pool, x);
                let one = pool.float(1.0);
                let near = pool.binary(BinaryOp::Add, one, d);
                // 1 - (1 + d) is exact for these d.
                let kept = pool.binary(BinaryOp::Sub, near, one);
                let rest = pool.binary(BinaryOp::Sub, d, kept);
                let (small, none, size) = (pool.float(SMALL), pool.float(0.0), pool.unary(UnaryOp::Abs, x));
                let close = pool.binary(BinaryOp::Le, size, small);
                let far = pool.unary(UnaryOp::Exp, x);
                (pool.select(close, near, far), pool.select(close, rest, none))
            }
        };
        let (half, two, none) = (pool.float(0.5), pool.float(2.0), pool.float(0.0));
        let (at_least, below) = (pool.binary(BinaryOp::Le, half, near), pool.binary(BinaryOp::Lt, near, two));
        let inside = pool.and(at_least, below);
        let one = pool.float(1.0);
        let shrinks = pool.binary(BinaryOp::Lt, near, one);
        let mut either = |below, above| {
            let (below, above) = (pool.float(below), pool.float(above));
            pool.select(shrinks, below, above)
        };
        let (unit, per_unit) = (either(ULP, 2.0 * ULP), either(1.0 / ULP, 0.5 / ULP));
        let lost = pool.binary(BinaryOp::Mul, rest, per_unit);
        let lost = pool.select(inside, lost, none);
        // What is owed before and after this chunk, in units of the last place.
        let owed = |pool: &mut Pool, k: ExprId| {
            let k = pool.unary(UnaryOp::ToFloat, k);
            let all = pool.binary(BinaryOp::Mul, lost, k);
            pool.unary(UnaryOp::Floor, all)
        };
        let before = owed(pool, chunk);
        let next = pool.add_int(chunk, 1);
        let after = owed(pool, next);
        let units = pool.binary(BinaryOp::Sub, after, before);
        let step = pool.binary(BinaryOp::Mul, units, unit);
        pool.binary(BinaryOp::Add, near, step)
    }
}

/// Distance of neighbouring f32 from 1/2 to 1.
const ULP: f64 = 1.0 / (1u64 << 24) as f64;
/// Largest exponent whose exponential is formed by [`expm1`].
const SMALL: f64 = 0.5;
/// Decays within this of 1 are multiplied as what is missing to 1.
const NEAR: f64 = 1.0 / 16.0;

/// `e * k` at a place; 0 steps are 0 even where e is infinite.
fn exponent(r: &Recurrence, pool: &mut Pool, at: Place, e: ExprId, k: ExprId) -> ExprId {
    let e = pool.substitute(e, &[(r.vars.b, at.b), (r.vars.h, at.h)]);
    let (zero, none) = (pool.int(0), pool.float(0.0));
    let no_steps = pool.eq(k, zero);
    let k = pool.unary(UnaryOp::ToFloat, k);
    let sum = pool.binary(BinaryOp::Mul, e, k);
    pool.select(no_steps, none, sum)
}

/// `e^x - 1` for |x| <= 1/2 to f32 accuracy: Taylor's sum to the ninth power, whose next term is below 2^-27 of it.
fn expm1(pool: &mut Pool, x: ExprId) -> ExprId {
    let mut sum = pool.float(1.0);
    for k in (2..=9).rev() {
        let (one, k) = (pool.float(1.0), pool.float(f64::from(k)));
        let part = pool.binary(BinaryOp::Div, x, k);
        let term = pool.binary(BinaryOp::Mul, part, sum);
        sum = pool.binary(BinaryOp::Add, one, term);
    }
    pool.binary(BinaryOp::Mul, x, sum)
}

fn tensor(program: &mut Program, name: &str, kind: TensorKind, shape: Vec<ExprId>) -> TensorId {
    let layout = (0..shape.len()).collect();
    let name = super::super::fresh(name, program.tensors.iter().map(|t| t.name.as_str()));
    program.tensors.push(TensorDecl { name, kind, dtype: DType::F32, shape, layout, fact: Fact::None });
    TensorId(program.tensors.len() as u32 - 1)
}

/// `[B, H]`, 1 where there is no such dim.
pub fn leading(pool: &mut Pool, r: &Recurrence) -> Vec<ExprId> {
    let batch = r.batch.unwrap_or_else(|| pool.int(1));
    vec![batch, pool.int(r.heads.unwrap_or(1))]
}

fn table(program: &mut Program, r: &Recurrence, name: &str, decay: ExprId) -> Powers {
    let mut make = |what: &str, of: fn(&mut Pool, ExprId) -> ExprId| {
        let pool = &mut program.pool;
        let vars = ["b", "h", "k"].map(|n| pool.add_var(n, Ty::Int));
        let [b, h, k] = vars.map(|v| pool.var(v));
        let base = pool.substitute(decay, &[(r.vars.b, b), (r.vars.h, h)]);
        let k = pool.unary(UnaryOp::ToFloat, k);
        let power = pool.binary(BinaryOp::Pow, base, k);
        let value = of(pool, power);
        let mut shape = leading(pool, r);
        shape.push(pool.int(LANES + 1));
        let origin = vec![pool.int(0); 3];
        let kind = TensorKind::Table { vars: vars.to_vec(), origin, value };
        tensor(program, &format!("{name}_{what}"), kind, shape)
    };
    let power = make("powers", |_, power| power);
    let rest = make("lost", |pool, power| {
        let near = pool.unary(UnaryOp::Round32, power);
        pool.binary(BinaryOp::Sub, power, near)
    });
    Powers::Tensor(power, rest)
}

/// One task for each (b, h).
fn places(program: &mut Program, r: &Recurrence) -> (Vec<(crate::expr::VarId, ExprId)>, Place) {
    let pool = &mut program.pool;
    let extents = leading(pool, r);
    let vars = ["b", "h"].map(|n| pool.add_var(n, Ty::Int));
    let at = Place { b: pool.var(vars[0]), h: pool.var(vars[1]) };
    (vars.into_iter().zip(extents).collect(), at)
}

/// Powers of a decay that the host's tensors decide: products, or near 1 what they lack to 1, `d(k + 1) = d(1) +
/// decay * d(k)`.
fn powers(program: &mut Program, r: &Recurrence, name: &str, decay: ExprId) -> Powers {
    let mut shape = leading(&mut program.pool, r);
    shape.push(program.pool.int(LANES + 1));
    let out = tensor(program, &format!("{name}_powers"), TensorKind::Workspace, shape.clone());
    let lost = tensor(program, &format!("{name}_lost"), TensorKind::Workspace, shape);
    let (grid, at) = places(program, r);
    let mut e = Emit { program, buffers: vec![] };
    let [power, factor, missing, rest] =
        ["power", "factor", "missing", "rest"].map(|what| e.buffer(what, LANES + 1, 1));
    let (n, one) = (e.int(LANES + 1), e.int(1));
    let value = e.placed(r, decay, at);
    let mut body = Vec::new();
    let value = e.define(&mut body, "decay", value);
    let near = |pool: &mut Pool| {
        let (one, near) = (pool.float(1.0), pool.float(NEAR));
        let off = pool.binary(BinaryOp::Sub, one, value);
        let size = pool.unary(UnaryOp::Abs, off);
        pool.binary(BinaryOp::Le, size, near)
    };
    let tile = crate::tile_ir::Access::Tile;
    body.push(e.map(power, (n, one), &[], |m| first_one(m.pool, m.r)));
    body.push(e.map(factor, (n, one), &[], |_| value));
    body.push(Stmt::ScanRows { dst: power, rows: n, cols: one, decay: Some(factor) });
    body.push(e.map(missing, (n, one), &[], |m| {
        let (zero, none, one) = (m.pool.int(0), m.pool.float(0.0), m.pool.float(1.0));
        let first = m.pool.eq(m.r, zero);
        let off = m.pool.binary(BinaryOp::Sub, one, value);
        m.pool.select(first, none, off)
    }));
    body.push(Stmt::ScanRows { dst: missing, rows: n, cols: one, decay: Some(factor) });
    body.push(e.map(power, (n, one), &[(power, tile), (missing, tile)], |m| {
        let one = m.pool.float(1.0);
        let kept = m.pool.binary(BinaryOp::Sub, one, m.reads[1]);
        let near = near(m.pool);
        m.pool.select(near, kept, m.reads[0])
    }));
    body.push(e.map(rest, (n, one), &[(power, tile), (missing, tile)], |m| {
        let (one, none) = (m.pool.float(1.0), m.pool.float(0.0));
        let kept = m.pool.binary(BinaryOp::Sub, one, m.reads[0]);
        let rest = m.pool.binary(BinaryOp::Sub, kept, m.reads[1]);
        let near = near(m.pool);
        m.pool.select(near, rest, none)
    }));
    body.push(store(&mut e, out, power, at, None, n));
    body.push(store(&mut e, lost, rest, at, None, n));
    let launch = Launch { name: format!("{name}_powers"), grid, buffers: e.buffers, body };
    add(program, launch);
    Powers::Tensor(out, lost)
}

fn add(program: &mut Program, mut launch: Launch) {
    launch.name = super::super::fresh(&launch.name, program.launches.iter().map(|l| l.name.as_str()));
    program.launches.push(launch);
}

fn first_one(pool: &mut Pool, r: ExprId) -> ExprId {
    let (zero, one, none) = (pool.int(0), pool.float(1.0), pool.float(0.0));
    let first = pool.eq(r, zero);
    pool.select(first, one, none)
}

fn store(
    e: &mut Emit<'_>,
    tensor: TensorId,
    src: crate::tile_ir::BufId,
    at: Place,
    t: Option<ExprId>,
    n: ExprId,
) -> Stmt {
    let t = t.unwrap_or_else(|| e.int(0));
    let dst = RowsRef { tensor, index: vec![at.b, at.h, t], row_dim: 2, col_dim: 2 };
    Stmt::StoreVec { dst, src: src.into(), rows: n }
}

fn each_step(
    program: &mut Program,
    r: &Recurrence,
    name: &str,
    decay: ExprId,
    exponent: Option<ExprId>,
) -> EachStep {
    let mut shape = leading(&mut program.pool, r);
    shape.push(r.steps);
    let mut longer = shape.clone();
    longer[2] = program.pool.add_int(r.steps, LANES);
    let mut make = |what: &str, shape: &[ExprId]| {
        tensor(program, &format!("{name}_{what}"), TensorKind::Workspace, shape.to_vec())
    };
    let made = EachStep {
        exp: exponent.is_some(),
        step: make("decay", &shape),
        through: make("decay_through", &shape),
        last: make("decay_last", &longer),
    };
    let (mut grid, at) = places(program, r);
    let mut e = Emit { program, buffers: vec![] };
    let chunks = e.pool().ceil_div(r.steps, LANES);
    let groups = e.pool().ceil_div(chunks, CHUNKS);
    let (group_var, group) = e.counter("g");
    grid.push((group_var, groups));
    let most = e.int(CHUNKS);
    let mut body = Vec::new();
    let first = e.pool().mul(group, most);
    let left = e.pool().sub(chunks, first);
    let count = e.pool().min(left, most);
    let value = e.placed(r, exponent.unwrap_or(decay), at);
    let (counter, n) = e.counter("n");
    let chunk = e.pool().add(first, n);
    let inner = chunk_products(&mut e, r, made, at, chunk, value);
    let lo = e.int(0);
    body.push(Stmt::For { var: counter, lo, hi: count, body: inner });
    let launch = Launch { name: format!("{name}_decays"), grid, buffers: e.buffers, body };
    add(program, launch);
    made
}

/// The products of one chunk.
fn chunk_products(
    e: &mut Emit<'_>,
    r: &Recurrence,
    made: EachStep,
    at: Place,
    chunk: ExprId,
    value: ExprId,
) -> Vec<Stmt> {
    let (step, product) = (e.buffer("step", LANES, 1), e.buffer("product", LANES, 1));
    let (back, last) = (e.buffer("back", LANES, 1), e.buffer("last", LANES, 1));
    let mut body = Vec::new();
    let lanes = e.int(LANES);
    let t0 = e.pool().mul(chunk, lanes);
    let t0 = e.define(&mut body, "t0", t0);
    let left = e.pool().sub(r.steps, t0);
    let n = e.pool().min(left, lanes);
    let n = e.define(&mut body, "n_steps", n);
    let (one, t, exp) = (e.int(1), r.vars.t, made.exp);
    body.push(e.map(step, (n, one), &[], |m| {
        let at = m.pool.add(t0, m.r);
        m.pool.substitute(value, &[(t, at)])
    }));
    body.push(store(e, made.step, step, at, Some(t0), n));
    let tile = crate::tile_ir::Access::Tile;
    // Through each step: a sum of exponents, or the first decay and products from there.
    body.push(e.map(product, (n, one), &[(step, tile)], |m| {
        let (zero, none) = (m.pool.int(0), m.pool.float(0.0));
        let first = m.pool.eq(m.r, zero);
        if exp { m.reads[0] } else { m.pool.select(first, m.reads[0], none) }
    }));
    let scan = |dst, by| Stmt::ScanRows { dst, rows: n, cols: one, decay: (!exp).then_some(by) };
    let finish = |body: &mut Vec<Stmt>, dst| {
        if exp {
            body.push(Stmt::Math { f: crate::artifact::MathFn::Exp, dst, rows: n, cols: one });
        }
    };
    body.push(scan(product, step));
    finish(&mut body, product);
    body.push(store(e, made.through, product, at, Some(t0), n));
    // The last k steps: backwards from the end of the chunk.
    body.push(e.map(back, (n, one), &[], |m| {
        let one = m.pool.int(1);
        let back = m.pool.max(m.r, one);
        let end = m.pool.add(t0, n);
        let at = m.pool.sub(end, back);
        m.pool.substitute(value, &[(t, at)])
    }));
    body.push(e.map(last, (n, one), &[(back, tile)], |m| {
        let (zero, none) = (m.pool.int(0), m.pool.float(0.0));
        let first = m.pool.eq(m.r, zero);
        if exp { m.pool.select(first, none, m.reads[0]) } else { first_one(m.pool, m.r) }
    }));
    body.push(scan(last, back));
    finish(&mut body, last);
    body.push(store(e, made.last, last, at, Some(t0), n));
    body
}
