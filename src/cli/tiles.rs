//! A mask at concrete sizes: the class of every tile, the pairs in it, the cells of its partial tiles.
//!
//! Comes in: an attention, the sizes of a problem, the tensors that the mask reads, as far as they are known. Goes
//! out: tile maps by [`Layer`] (the mask, or one of its clauses), counts, cells. What holds: where a tensor is not
//! known, a tile is empty or full only if it is so for every content of the tensor. Not here: any picture.

use std::collections::HashMap;

use attn_compiler::artifact::PANEL;
use attn_compiler::attn_ir::Attention;
use attn_compiler::ensure::analyze_mask;
use attn_compiler::expr::eval::{Env, Value, eval};
use attn_compiler::expr::{BinaryOp, ExprId, Op, Pool, TensorId, Ty, UnaryOp, VarId};
use attn_compiler::host::View;
use attn_compiler::mask::host::{Class, Classifier, Tape, TileGrid, TileMap};

use super::data::Scalars;
use super::ui::Failure;

/// Most tiles of one map.
const MAX_TILES: i64 = 1 << 26;

/// A mask or a clause of it, ready to be evaluated.
pub struct Layer {
    /// Finds empty tiles: of the mask with unknown conditions taken as true.
    upper: Classifier,
    /// Finds full tiles: of the mask with unknown conditions taken as false. None if all is known.
    lower: Option<Classifier>,
    /// Whether a pair is in the mask; none if tensors are unknown.
    cells: Option<Tape>,
}

/// Everything that masks are evaluated with.
pub struct Ground<'a> {
    attention: &'a Attention,
    scalars: Scalars,
    views: Vec<Option<View>>,
    zeros: Vec<Value>,
    at: [(VarId, i64); 2],
    /// Sizes and tiles.
    pub grid: TileGrid,
    /// Batch entries.
    pub batch: i64,
    /// Most keys of an entry.
    capacity: i64,
}

impl Env for Ground<'_> {
    fn var(&self, var: VarId) -> Value {
        match self.at.iter().find(|(v, _)| *v == var) {
            Some((_, value)) => Value::Int(*value),
            None => self.scalars.var(var),
        }
    }

    fn load(&self, tensor: TensorId, index: &[i64]) -> Value {
        let n = tensor.0 as usize;
        self.views[n].as_ref().and_then(|view| view.get(index)).unwrap_or(self.zeros[n])
    }
}

/// As the ground, but an unknown element is the number of keys that there is room for.
struct Lengths<'g, 'a>(&'g Ground<'a>);

impl Env for Lengths<'_, '_> {
    fn var(&self, var: VarId) -> Value {
        self.0.var(var)
    }

    fn load(&self, tensor: TensorId, index: &[i64]) -> Value {
        match &self.0.views[tensor.0 as usize] {
            Some(_) => self.0.load(tensor, index),
            None => Value::Int(self.0.capacity),
        }
    }
}

impl<'a> Ground<'a> {
    /// Sizes are settled; `views` holds the tensors that are known. Errors: more tiles than can be held.
    pub fn new(
        attention: &'a Attention,
        scalars: Scalars,
        views: Vec<Option<View>>,
        (tile_q, tile_kv): (i64, i64),
    ) -> Result<Ground<'a>, Failure> {
        let zero = |ty| match ty {
            Ty::Bool => Value::Bool(false),
            Ty::Int => Value::Int(0),
            Ty::Float => Value::Float(0.0),
        };
        let zeros = attention.tensors.iter().map(|t| zero(t.dtype.value_ty())).collect();
        let size = |id: ExprId| eval(&attention.pool, id, &scalars).int();
        let capacity = size(attention.capacity()).max(0);
        let seq_q = size(attention.seq_q).max(0);
        let grid = TileGrid { seq_q, seq_k: capacity, offset: 0, tile_q, tile_kv, panel: PANEL as i64 };
        let batch = size(attention.batch).max(0);
        let tiles = (grid.seq_q / tile_q.max(1) + 1).checked_mul(grid.seq_k / tile_kv.max(1) + 1);
        if tiles.is_none_or(|n| n > MAX_TILES) {
            let (q, k) = (grid.seq_q, grid.seq_k);
            let message =
                format!("{q} queries by {k} keys are more than {MAX_TILES} tiles of [{tile_q}, {tile_kv}]");
            return Err(Failure::wrong(message).help("give smaller lengths with --at"));
        }
        let at = [(attention.index.b, 0), (attention.index.h, 0)];
        let mut ground = Ground { attention, scalars, views, zeros, at, grid, batch, capacity };
        ground.choose(0, 0);
        Ok(ground)
    }

    /// Keys of all batch entries together.
    pub fn keys(&mut self) -> i64 {
        let of = |ground: &mut Self, b| {
            ground.choose(b, 0);
            ground.grid.seq_k
        };
        let all = if self.attention.lengths().is_empty() {
            of(self, 0).saturating_mul(self.batch)
        } else {
            (0..self.batch).map(|b| of(self, b)).sum()
        };
        self.choose(0, 0);
        all
    }

    /// Tensors that an expression reads and that are not known.
    pub fn unknown(&self, mask: ExprId) -> Vec<&'a str> {
        let mut names: Vec<&str> = reads(&self.attention.pool, mask)
            .into_iter()
            .filter(|t| self.views[t.0 as usize].is_none())
            .map(|t| self.attention.tensor(t).name.as_str())
            .collect();
        names.dedup();
        names
    }

    /// The mask of the attention, or a clause of it.
    pub fn layer(&self, mask: ExprId) -> Layer {
        let mut attention = self.attention.clone();
        let mut analyzed = |pool: &Pool, mask: ExprId| {
            attention.mask = mask;
            attention.pool = pool.clone();
            let mut pool = pool.clone();
            let analysis = analyze_mask(&attention, &mut pool);
            Classifier::new(&pool, &analysis)
        };
        let pool = &self.attention.pool;
        let ix = self.attention.index;
        if self.unknown(mask).is_empty() {
            let cells = Some(Tape::new(pool, &[mask], &[ix.i, ix.row], &[ix.j]));
            return Layer { upper: analyzed(pool, mask), lower: None, cells };
        }
        let known: Vec<bool> = self.views.iter().map(Option::is_some).collect();
        let mut pool = pool.clone();
        let mut bound = |upper| Bounds { known: &known, memo: HashMap::new() }.of(&mut pool, mask, upper);
        let (above, below) = (bound(true), bound(false));
        Layer { upper: analyzed(&pool, above), lower: Some(analyzed(&pool, below)), cells: None }
    }

    /// The (b, h) at which a mask differs, at most `max_heads` heads; how many each stands for.
    pub fn distinct(&self, mask: ExprId) -> (i64, i64, i64) {
        let pool = &self.attention.pool;
        let n_heads = self.attention.n_heads.max(0);
        let mask_or_length = |id: ExprId| [id, self.attention.seq_k, self.attention.offset].into_iter();
        let by_b = mask_or_length(mask).any(|id| pool.depends_on(id, &[self.attention.index.b]));
        let by_h = pool.depends_on(mask, &[self.attention.index.h]);
        let n_b = if by_b { self.batch } else { self.batch.min(1) };
        let n_h = if by_h { n_heads } else { n_heads.min(1) };
        let times = (if by_b { 1 } else { self.batch }) * (if by_h { 1 } else { n_heads });
        (n_b, n_h, times)
    }

    /// Chooses the batch entry and head of what follows: the grid is that of the entry's length. A length that is
    /// not known is the most that there can be.
    pub fn choose(&mut self, b: i64, h: i64) {
        self.at[0].1 = b;
        self.at[1].1 = h;
        let lengths = Lengths(self);
        let size = |id: ExprId| eval(&self.attention.pool, id, &lengths).int();
        let (seq_k, offset) = (size(self.attention.seq_k), size(self.attention.offset));
        self.grid.seq_k = seq_k.clamp(0, self.capacity);
        self.grid.offset = offset;
    }

    /// The class of every tile at the chosen (b, h).
    pub fn map(&self, layer: &mut Layer) -> TileMap {
        let mut map = layer.upper.map(&self.grid, self);
        if let Some(lower) = &mut layer.lower {
            let inside = lower.map(&self.grid, self);
            for (class, inside) in map.class.iter_mut().zip(inside.class) {
                *class = match (*class, inside) {
                    (Class::Empty, _) => Class::Empty,
                    (_, Class::Full) => Class::Full,
                    _ => Class::Partial,
                };
            }
        }
        map
    }

    /// Cells of one query row at these keys, `None` where tensors are unknown.
    pub fn cells<'l>(
        &self,
        layer: &'l mut Layer,
        row: i64,
        keys: &[i64],
    ) -> Option<impl Fn(usize) -> bool + 'l> {
        let tape = layer.cells.as_mut()?;
        tape.run(&[row + self.grid.offset, row], &[keys], self);
        Some(|n: usize| tape.get(0, n) != 0)
    }

    /// Prepares [`Ground::cells`] for the chosen (b, h).
    pub fn bind(&self, layer: &mut Layer) {
        if let Some(tape) = &mut layer.cells {
            tape.bind(self);
        }
    }

    /// Counts pairs at the chosen (b, h): full tiles by their area, partial ones cell by cell.
    pub fn count(&self, layer: &mut Layer, map: &TileMap, left: &mut u64) -> Option<Counted> {
        self.bind(layer);
        let (queries, keys) = (self.grid.query_tiles(), self.grid.key_tiles());
        let mut counted = Counted { pairs: 0, hollow: 0, empty_row: None };
        for (q, (i_lo, i_hi)) in queries.iter().enumerate() {
            let (mut whole, mut partial, mut tiles) = (0u64, Vec::new(), Vec::new());
            for (k, (j_lo, j_hi)) in keys.iter().enumerate() {
                match map.at(q, k) {
                    Class::Full => whole += (j_hi - j_lo + 1) as u64,
                    Class::Partial => {
                        let first = partial.len();
                        partial.extend(*j_lo..=*j_hi);
                        tiles.push((first..partial.len(), false));
                    }
                    Class::Empty => {}
                }
            }
            for row in i_lo - self.grid.offset..=i_hi - self.grid.offset {
                let mut seen = whole;
                if !partial.is_empty() {
                    *left = left.checked_sub(partial.len() as u64)?;
                    let inside = self.cells(layer, row, &partial)?;
                    for (keys, any) in &mut tiles {
                        let n = keys.clone().filter(|&n| inside(n)).count() as u64;
                        seen += n;
                        *any |= n > 0;
                    }
                }
                counted.pairs += seen;
                if seen == 0 && counted.empty_row.is_none() {
                    counted.empty_row = Some(row);
                }
            }
            counted.hollow += tiles.iter().filter(|(_, any)| !any).count() as u64;
        }
        Some(counted)
    }
}

/// What [`Ground::count`] finds.
#[derive(Clone, Copy, Debug)]
pub struct Counted {
    /// Pairs in the mask.
    pub pairs: u64,
    /// Tiles that are worked on without holding a pair.
    pub hollow: u64,
    /// The first row that sees no key.
    pub empty_row: Option<i64>,
}

/// The tensors that an expression reads, in order.
pub fn reads(pool: &Pool, id: ExprId) -> Vec<TensorId> {
    let mut found: Vec<TensorId> = pool
        .reachable(&[id])
        .into_iter()
        .filter_map(|node| match pool.op(node) {
            Op::Load(t, ..) => Some(*t),
            _ => None,
        })
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}

/// Bounds of a condition over every content of the tensors that are not known.
struct Bounds<'a> {
    known: &'a [bool],
    memo: HashMap<(ExprId, bool), ExprId>,
}

impl Bounds<'_> {
    /// An expression that holds wherever `id` can hold (`upper`), or only where it must hold.
    fn of(&mut self, pool: &mut Pool, id: ExprId, upper: bool) -> ExprId {
        if reads(pool, id).iter().all(|t| self.known[t.0 as usize]) {
            return id;
        }
        if let Some(&done) = self.memo.get(&(id, upper)) {
            return done;
        }
        let bound = match pool.op(id).clone() {
            Op::Unary(UnaryOp::Not, a) => {
                let a = self.of(pool, a, !upper);
                pool.not(a)
            }
            Op::Binary(op @ (BinaryOp::And | BinaryOp::Or), a, b) => {
                let (a, b) = (self.of(pool, a, upper), self.of(pool, b, upper));
                pool.binary(op, a, b)
            }
            Op::Select(c, a, b) if pool.ty(a) == Ty::Bool => {
                let (a, b) = (self.of(pool, a, upper), self.of(pool, b, upper));
                let decided = reads(pool, c).iter().all(|t| self.known[t.0 as usize]);
                match (decided, upper) {
                    (true, _) => pool.select(c, a, b),
                    (false, true) => pool.binary(BinaryOp::Or, a, b),
                    (false, false) => pool.binary(BinaryOp::And, a, b),
                }
            }
            _ => pool.bool(upper),
        };
        self.memo.insert((id, upper), bound);
        bound
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `j < len & !(bit[j])` with neither known: what can hold is all, what must hold is nothing.
    #[test]
    fn unknown_conditions_are_bounded_by_polarity() {
        let mut pool = Pool::new();
        let j = pool.add_var("j", Ty::Int);
        let j = pool.var(j);
        let bit = pool.load(TensorId(0), vec![j], Ty::Bool);
        let hidden = pool.not(bit);
        let four = pool.int(4);
        let near = pool.binary(BinaryOp::Lt, j, four);
        let mask = pool.binary(BinaryOp::And, near, hidden);
        let known = [false];
        let mut bound = |upper| Bounds { known: &known, memo: HashMap::new() }.of(&mut pool, mask, upper);
        let (above, below) = (bound(true), bound(false));
        assert_eq!(above, near);
        assert_eq!(pool.as_bool(below), Some(false));
    }
}
