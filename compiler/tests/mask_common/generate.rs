//! Random masks: every leaf family, composed by `&`, `|`, `!` and `? :`, at random sizes.
//!
//! The generator is a fixed function of its seed, so that a failure is found again by its number. Choices are
//! drawn in one of two ways ([`Draw`]): all alternatives alike, or as masks in use have them.

use attn_compiler::attn_ir::Fact;
use attn_compiler::expr::eval::Value;
use attn_compiler::expr::{ExprId, Ty, UnaryOp};

use super::{Builder, Case};

/// SplitMix64 (Steele, Lea, Flood 2014).
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform in `lo..=hi`.
    pub fn int(&mut self, lo: i64, hi: i64) -> i64 {
        lo + (self.next() % (hi - lo + 1) as u64) as i64
    }

    pub fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[(self.next() % items.len() as u64) as usize]
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.next().is_multiple_of(n)
    }
}

/// How choices are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Draw {
    /// Every alternative alike: kinds of leaf, operators, sizes of blocks whatever the tile, promises of tables,
    /// constants and parameters. Only "as large as an int can be" stays at one in 16.
    Uniform,
    /// As masks in use: causal and windows often, blocks of data mostly as large as a tile, tables mostly sorted.
    Weighted,
}

/// Largest sizes of a case.
#[derive(Clone, Copy)]
pub struct Sizes {
    pub draw: Draw,
    pub n: (i64, i64),
    pub tiles: &'static [i64],
    pub blocks: &'static [i64],
}

/// What most cases use.
pub const SMALL: Sizes = Sizes {
    draw: Draw::Uniform,
    n: (1, 160),
    tiles: &[5, 8, 16, 24, 32, 64],
    blocks: &[4, 6, 8, 16, 20, 32, 64],
};
/// The prototype's size.
pub const LARGE: Sizes =
    Sizes { draw: Draw::Uniform, n: (1024, 1024), tiles: &[64], blocks: &[16, 64, 96, 128] };
/// [`SMALL`], weighted.
pub const SMALL_WEIGHTED: Sizes = Sizes {
    draw: Draw::Weighted,
    n: (1, 160),
    tiles: &[8, 16, 16, 32, 32, 64, 5, 24],
    blocks: &[4, 8, 16, 32, 64, 6, 20],
};
/// [`LARGE`], weighted.
pub const LARGE_WEIGHTED: Sizes =
    Sizes { draw: Draw::Weighted, n: (1024, 1024), tiles: &[64], blocks: &[16, 64, 64, 128, 96] };

struct Gen {
    rng: Rng,
    b: Builder,
    sizes: Sizes,
    i: ExprId,
    j: ExprId,
    row: ExprId,
    /// About the size of the mask.
    n: i64,
    /// Families of the leaves made so far.
    made: Vec<&'static str>,
}

type Make = fn(&mut Gen) -> ExprId;

/// The families of leaves, each with the last number that draws it by weight.
const LEAVES: [(&str, i64, Make); 14] = [
    ("causal", 2, Gen::causal),
    ("window", 5, Gen::window),
    ("prefix", 6, Gen::prefix),
    ("chunk", 8, Gen::chunk),
    ("remainder", 10, Gen::remainder),
    ("documents", 12, Gen::documents),
    ("block data", 13, Gen::block_bits),
    ("global", 15, Gen::global),
    ("compressed", 16, Gen::compressed),
    ("condition", 17, Gen::condition),
    ("random blocks", 18, Gen::random_blocks),
    ("row bounds", 19, Gen::row_bounds),
    ("shapes", 20, Gen::shapes),
    ("constant", 21, Gen::constant),
];

/// Names of the families of leaves.
pub fn families() -> impl Iterator<Item = &'static str> {
    LEAVES.iter().map(|leaf| leaf.0)
}

/// The case of a seed.
pub fn generate(seed: u64, sizes: Sizes) -> Case {
    let (mut g, depth) = start(seed, sizes);
    let mask = g.mask(depth);
    g.b.finish(mask)
}

/// The case of a seed with the families of its leaves.
pub fn generate_named(seed: u64, sizes: Sizes) -> (Case, Vec<&'static str>) {
    let (mut g, depth) = start(seed, sizes);
    let mask = g.mask(depth);
    (g.b.finish(mask), g.made)
}

/// A mask of one leaf of the n-th family.
pub fn generate_leaf(seed: u64, sizes: Sizes, n: usize) -> Case {
    let (mut g, _) = start(seed, sizes);
    let mask = LEAVES[n].2(&mut g);
    g.b.finish(mask)
}

fn start(seed: u64, sizes: Sizes) -> (Gen, i64) {
    let mut rng = Rng(seed.wrapping_mul(0xD129_0429_1F3A_5C77));
    rng.next();
    let seq_k = rng.int(sizes.n.0, sizes.n.1);
    let seq_q = if rng.one_in(2) { seq_k } else { rng.int(sizes.n.0, sizes.n.1) };
    let tile = (rng.pick(sizes.tiles), rng.pick(sizes.tiles));
    let bottom_right = rng.one_in(2);
    let mut b = Builder::new(seq_q, seq_k, tile, bottom_right);
    for (name, n) in [("b", 2), ("h", 8)] {
        let value = Value::Int(rng.int(0, n - 1));
        b.values.add(&mut b.pool, name, value);
    }
    let [i, j, row] = [b.i, b.j, b.row].map(|v| b.pool.var(v));
    let mut g = Gen { rng, b, sizes, i, j, row, n: seq_q.max(seq_k), made: vec![] };
    let depth = g.rng.int(0, 4);
    (g, depth)
}

impl Gen {
    /// One of the alternatives; by weight, `lasts` holds the last number that draws each.
    fn choice(&mut self, lasts: &[i64]) -> usize {
        let n = lasts.len();
        if self.sizes.draw == Draw::Uniform {
            return self.rng.int(0, n as i64 - 1) as usize;
        }
        let x = self.rng.int(0, lasts[n - 1]);
        lasts.iter().position(|&last| x <= last).expect("the last one is as large")
    }

    /// True once in `n`, or evenly.
    fn rarely(&mut self, n: u64) -> bool {
        let n = if self.sizes.draw == Draw::Uniform { 2 } else { n };
        self.rng.one_in(n)
    }

    fn mask(&mut self, depth: i64) -> ExprId {
        if depth == 0 || (self.sizes.draw == Draw::Weighted && self.rng.one_in(6)) {
            return self.leaf();
        }
        match self.choice(&[3, 7, 8, 9]) {
            0 => {
                let (a, b) = (self.mask(depth - 1), self.mask(depth - 1));
                self.b.pool.and(a, b)
            }
            1 => {
                let (a, b) = (self.mask(depth - 1), self.mask(depth - 1));
                self.b.pool.or(a, b)
            }
            2 => {
                let a = self.mask(depth - 1);
                self.b.pool.not(a)
            }
            _ => {
                let c = if self.rarely(3) { self.leaf() } else { self.condition() };
                let (a, b) = (self.mask(depth - 1), self.mask(depth - 1));
                self.b.pool.select(c, a, b)
            }
        }
    }

    /// A number, as a constant or as a run-time parameter.
    fn number(&mut self, x: i64) -> ExprId {
        if self.rarely(3) {
            let name = format!("p{}", self.b.pool.vars().count());
            let var = self.b.values.add(&mut self.b.pool, &name, Value::Int(x));
            return self.b.pool.var(var);
        }
        self.b.pool.int(x)
    }

    /// A width: mostly within the mask, sometimes 0 or negative.
    fn width(&mut self) -> ExprId {
        let n = self.n;
        let x = match self.sizes.draw {
            Draw::Uniform => self.rng.int(-8, n),
            Draw::Weighted if self.rng.one_in(6) => self.rng.int(-8, 0),
            Draw::Weighted => self.rng.int(1, n),
        };
        self.number(x)
    }

    /// A width or limit that may also be as large as an int can be.
    fn limit(&mut self, x: ExprId) -> ExprId {
        if self.rng.one_in(16) { self.number(i64::MAX) } else { x }
    }

    fn position(&mut self) -> ExprId {
        let n = self.n;
        let x = self.rng.int(-4, n + 4);
        self.number(x)
    }

    fn block(&mut self) -> ExprId {
        let x = self.rng.pick(self.sizes.blocks);
        self.number(x)
    }

    fn leaf(&mut self) -> ExprId {
        let (name, _, make) = LEAVES[self.choice(&LEAVES.map(|leaf| leaf.1))];
        self.made.push(name);
        make(self)
    }

    fn constant(&mut self) -> ExprId {
        let x = self.rng.one_in(2);
        self.b.pool.bool(x)
    }

    fn causal(&mut self) -> ExprId {
        let zero = self.sizes.draw == Draw::Weighted && self.rng.one_in(2);
        let c = if zero { 0 } else { self.rng.int(-6, 6) };
        let c = self.number(c);
        let bound = self.b.pool.add(self.i, c);
        match self.choice(&[0, 1, 3]) {
            0 => self.b.pool.lt(self.j, bound),
            1 => self.b.pool.le(bound, self.j),
            _ => self.b.pool.le(self.j, bound),
        }
    }

    fn window(&mut self) -> ExprId {
        let w = self.width();
        let pool = &mut self.b.pool;
        let d = pool.sub(self.i, self.j);
        match self.rng.int(0, 3) {
            0 => {
                let w = self.limit(w);
                self.b.pool.lt(d, w)
            }
            1 => {
                let first = pool.sub(self.i, w);
                let (a, b) = (pool.lt(first, self.j), pool.le(self.j, self.i));
                pool.and(a, b)
            }
            2 => {
                let size = pool.unary(UnaryOp::Abs, d);
                let w = self.limit(w);
                self.b.pool.le(size, w)
            }
            _ => {
                let other = self.width();
                let pool = &mut self.b.pool;
                let (first, last) = (pool.sub(self.i, w), pool.add(self.i, other));
                let (a, b) = (pool.le(first, self.j), pool.le(self.j, last));
                pool.and(a, b)
            }
        }
    }

    fn prefix(&mut self) -> ExprId {
        let p = if self.rng.one_in(2) {
            let p = self.position();
            self.limit(p)
        } else {
            let n = self.n;
            let data = vec![self.rng.int(0, n), self.rng.int(0, n)];
            let t = self.tensor(&[2], false, Fact::None, data);
            let b = self.variable("b");
            self.b.pool.load(t, vec![b], Ty::Int)
        };
        self.b.pool.lt(self.j, p)
    }

    fn chunk(&mut self) -> ExprId {
        let c = self.block();
        let shift = if self.rarely(4) { self.rng.int(-9, 9) } else { 0 };
        let kind = self.choice(&[1, 2, 3, 4]);
        let pool = &mut self.b.pool;
        let x = pool.add_int(self.i, shift);
        let (p, q) = (pool.idiv(x, c), pool.idiv(self.j, c));
        match kind {
            0 => pool.eq(p, q),
            1 => pool.le(q, p),
            2 => pool.lt(q, p),
            _ => {
                let (lo, hi) = (pool.add_int(p, -1), pool.add_int(p, 1));
                let (a, b) = (pool.le(lo, q), pool.le(q, hi));
                pool.and(a, b)
            }
        }
    }

    fn remainder(&mut self) -> ExprId {
        let s = self.rng.int(1, 9);
        let c = self.rng.int(0, s - 1);
        let (s, c) = (self.number(s), self.number(c));
        let (of, kind) = (self.choice(&[1, 2, 3]), self.choice(&[0, 1, 3]));
        let pool = &mut self.b.pool;
        let x = match of {
            0 => pool.sub(self.i, self.j),
            1 => self.j,
            _ => self.i,
        };
        let m = pool.modulo(x, s);
        match kind {
            0 => pool.le(c, m),
            1 => pool.ne(m, c),
            _ => pool.eq(m, c),
        }
    }

    fn sorted(&mut self, len: i64, step: u64) -> Vec<i64> {
        let mut x = 0;
        (0..len)
            .map(|_| {
                x += i64::from(self.rng.one_in(step)) * self.rng.int(1, 2);
                x
            })
            .collect()
    }

    fn documents(&mut self) -> ExprId {
        let grid = self.b.grid;
        let step = self.rng.pick(&[4, 12, 30]);
        let keys = self.sorted(grid.seq_k, step);
        let rows = if grid.seq_q == grid.seq_k {
            keys.clone()
        } else {
            let at = |r: i64| keys[(r + grid.offset).clamp(0, grid.seq_k - 1) as usize];
            (0..grid.seq_q).map(at).collect()
        };
        let of_keys = self.tensor(&[grid.seq_k], false, Fact::Sorted, keys);
        let of_rows = if grid.seq_q == grid.seq_k {
            of_keys
        } else {
            self.tensor(&[grid.seq_q], false, Fact::Sorted, rows)
        };
        let pool = &mut self.b.pool;
        let (a, b) = (pool.load(of_rows, vec![self.row], Ty::Int), pool.load(of_keys, vec![self.j], Ty::Int));
        if self.rarely(4) { self.b.pool.le(b, a) } else { self.b.pool.eq(a, b) }
    }

    /// A block for what is constant on blocks; by weight mostly at least as large as the tiles, as schedules
    /// choose them.
    fn data_block(&mut self) -> i64 {
        let grid = self.b.grid;
        if self.sizes.draw == Draw::Uniform {
            return self.rng.pick(self.sizes.blocks);
        }
        match self.rng.int(0, 5) {
            0 => self.rng.pick(self.sizes.blocks),
            1 => 2 * grid.tile_q.max(grid.tile_kv),
            _ => grid.tile_q.max(grid.tile_kv),
        }
    }

    /// A size of blocks of data: as a constant, or drawn evenly.
    fn data_number(&mut self, x: i64) -> ExprId {
        if self.sizes.draw == Draw::Uniform { self.number(x) } else { self.b.pool.int(x) }
    }

    /// A tensor of one bit (or int) for each block.
    fn block_bits(&mut self) -> ExprId {
        let block = self.data_block();
        let grid = self.b.grid;
        let shape = [(grid.seq_q + block - 1) / block, (grid.seq_k + block - 1) / block];
        let bit = self.rng.one_in(2);
        let data = (0..shape[0] * shape[1]).map(|_| self.rng.int(0, if bit { 1 } else { 5 })).collect();
        let t = self.tensor(&shape, bit, Fact::None, data);
        let block = self.data_number(block);
        let pool = &mut self.b.pool;
        let (p, q) = (pool.idiv(self.row, block), pool.idiv(self.j, block));
        let element = pool.load(t, vec![p, q], if bit { Ty::Bool } else { Ty::Int });
        if bit {
            return element;
        }
        let two = self.b.pool.int(2);
        self.b.pool.le(element, two)
    }

    fn global(&mut self) -> ExprId {
        let p = self.position();
        let x = match self.choice(&[0, 1, 4]) {
            0 => self.i,
            1 => self.row,
            _ => self.j,
        };
        if self.rng.one_in(2) { self.b.pool.lt(x, p) } else { self.b.pool.le(p, x) }
    }

    fn compressed(&mut self) -> ExprId {
        let (a, b) = (self.rng.int(-5, 5), self.rng.int(-5, 5));
        let n = self.n;
        let c = self.rng.int(-2 * n, 2 * n);
        let c = self.number(c);
        let c = self.limit(c);
        let pool = &mut self.b.pool;
        let (a, b) = (pool.int(a), pool.int(b));
        let (x, y) = (pool.mul(self.i, a), pool.mul(self.j, b));
        let sum = pool.add(x, y);
        pool.le(sum, c)
    }

    fn condition(&mut self) -> ExprId {
        match self.choice(&[0, 1, 3]) {
            0 => {
                let value = Value::Bool(self.rng.one_in(2));
                let name = format!("flag{}", self.b.pool.vars().count());
                let var = self.b.values.add(&mut self.b.pool, &name, value);
                self.b.pool.var(var)
            }
            1 => {
                let value = Value::Float(self.rng.int(0, 9) as f64);
                let name = format!("x{}", self.b.pool.vars().count());
                let var = self.b.values.add(&mut self.b.pool, &name, value);
                let (x, limit) = (self.b.pool.var(var), self.b.pool.float(4.5));
                self.b.pool.lt(x, limit)
            }
            _ => {
                let (h, k) = (self.variable("h"), self.rng.int(0, 8));
                let k = self.number(k);
                self.b.pool.lt(h, k)
            }
        }
    }

    fn random_blocks(&mut self) -> ExprId {
        let block = self.data_block();
        let (n, seed) = (self.rng.int(0, 4), self.rng.int(0, 1000));
        let h = self.variable("h");
        let size = self.data_number(block);
        let ncols = (self.b.grid.seq_k + block - 1) / block;
        let pool = &mut self.b.pool;
        let [n, seed, ncols] = [n, seed, ncols].map(|x| pool.int(x));
        let (p, q) = (pool.idiv(self.row, size), pool.idiv(self.j, size));
        pool.rand_block([p, q, ncols, h, n, seed])
    }

    /// Bounds of the keys of each row, sorted, falling or in no order.
    fn row_bounds(&mut self) -> ExprId {
        let grid = self.b.grid;
        let mut data = self.sorted(grid.seq_q, 2);
        let fact = match self.choice(&[0, 9, 19]) {
            0 => Fact::None,
            1 => Fact::Monotone,
            _ => Fact::Sorted,
        };
        if fact == Fact::Monotone && self.rng.one_in(2) {
            data.reverse();
        }
        if fact == Fact::None {
            match self.sizes.draw {
                Draw::Uniform => data.iter_mut().for_each(|x| *x = self.rng.int(0, grid.seq_k)),
                Draw::Weighted => data.iter_mut().for_each(|x| *x = (*x * 7) % 23),
            }
        }
        let t = self.tensor(&[grid.seq_q], false, fact, data);
        let bound = self.b.pool.load(t, vec![self.row], Ty::Int);
        if self.rng.one_in(2) { self.b.pool.lt(self.j, bound) } else { self.b.pool.le(bound, self.j) }
    }

    /// Comparisons with `min`, `max` and integer choices in them.
    fn shapes(&mut self) -> ExprId {
        let (p, w) = (self.position(), self.width());
        let c = self.condition();
        let pool = &mut self.b.pool;
        match self.rng.int(0, 3) {
            0 => {
                let m = pool.max(self.i, self.j);
                pool.lt(m, p)
            }
            1 => {
                let first = pool.sub(self.i, w);
                let m = pool.min(first, p);
                pool.le(m, self.j)
            }
            2 => {
                let m = pool.select(c, self.i, p);
                pool.le(self.j, m)
            }
            _ => {
                let m = pool.min(self.i, p);
                pool.eq(m, self.j)
            }
        }
    }

    fn tensor(
        &mut self,
        shape: &[i64],
        bit: bool,
        fact: Fact,
        data: Vec<i64>,
    ) -> attn_compiler::expr::TensorId {
        let name = format!("t{}", self.b.values.tensors.len());
        self.b.tensor(&name, shape, bit, fact, data)
    }

    fn variable(&mut self, name: &str) -> ExprId {
        let var = self.b.pool.find_var(name);
        match var {
            Some(var) => self.b.pool.var(var),
            None => panic!("no variable {name}"),
        }
    }
}
