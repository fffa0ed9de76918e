//! Loops whose products read what was brought in an iteration before.
//!
//! Comes in: a loop over tiles whose body names values and then, on one condition, works on a tile. Goes out: the same loop
//! in which, at the top of an iteration, the operands of its later products and the first operands of the *next* iteration
//! are on their way while this one computes. What holds: a tile on which nothing is done is not brought; every copy is
//! waited for and shown by a barrier before it is read, and nothing is overwritten before all warps have read it.
//! Loops of another form bring each operand where it is used (`products`).
//!
//! Operands that meet a tile of queries (keys) have two stages and come one iteration ahead; those that meet weights
//! (values) have one and come in the iteration itself, behind the first product and the softmax. FlashAttention 2 (Dao 2023)
//! orders its copies so on sm_80.

use std::collections::VecDeque;

use attn_compiler::expr::{ExprId, VarId};
use attn_compiler::tile_ir::{Operand, Stmt};

use super::halves::Half;
use super::{Key, Lower, Result};
use crate::simt_ir::{Async, Bin, Cmp, Inst, Val};

/// A loop that can be pipelined, taken apart.
struct Form<'a> {
    var: VarId,
    lets: &'a [Stmt],
    cond: ExprId,
    then: &'a [Stmt],
    /// Products of the body, in order.
    products: Vec<&'a Stmt>,
}

/// A tile that is on its way, and how many groups of copies may still be when it is read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Staged {
    half: Half,
    /// It comes in this iteration: wait for it before the first product that reads such.
    late: bool,
}

/// What the products of an iteration read, in order.
#[derive(Clone, Debug, Default)]
pub(super) struct Queue {
    tiles: VecDeque<Staged>,
    /// The late ones have arrived.
    arrived: bool,
}

/// The products of a block, if none stands deeper, behind a value named inside, or cannot be brought ahead.
fn products(block: &[Stmt]) -> Option<Vec<&Stmt>> {
    let mut found = Vec::new();
    for stmt in block {
        match stmt {
            Stmt::Gemm { .. } => found.push(stmt),
            Stmt::Let { .. } | Stmt::Any { .. } | Stmt::First { .. } | Stmt::For { .. } => return None,
            Stmt::If { then, otherwise, .. } => {
                let inner = products(then)?.len() + products(otherwise)?.len();
                if inner > 0 {
                    return None;
                }
            }
            _ => {}
        }
    }
    Some(found)
}

/// Does an operand meet a tile of queries?
fn early(stmt: &Stmt) -> bool {
    matches!(stmt, Stmt::Gemm { b: Operand::Columns(_), .. })
}

impl<'a> Form<'a> {
    fn of(var: VarId, body: &'a [Stmt]) -> Option<Form<'a>> {
        let (last, lets) = body.split_last()?;
        let Stmt::If { cond, then, otherwise } = last else { return None };
        let only_lets = lets.iter().all(|s| matches!(s, Stmt::Let { .. }));
        if !only_lets || !otherwise.is_empty() {
            return None;
        }
        let products = products(then)?;
        if products.is_empty() {
            return None;
        }
        Some(Form { var, lets, cond: *cond, then, products })
    }
}

impl Lower<'_> {
    /// Writes a loop in its pipelined form, if it has one.
    pub(super) fn pipelined(
        &mut self,
        var: VarId,
        (lo, hi): (ExprId, ExprId),
        body: &[Stmt],
    ) -> Result<bool> {
        if self.layouts.is_none() {
            return Ok(false);
        }
        let Some(form) = Form::of(var, body) else { return Ok(false) };
        let before = (self.shared_bytes, self.n_stages);
        let mut halves = Vec::new();
        for product in &form.products {
            let right = self.right_operand(product)?;
            halves.push(self.new_stage(right.rows, right.cols, if early(product) { 2 } else { 1 }));
        }
        if !self.fits() {
            (self.shared_bytes, self.n_stages) = before;
            return Ok(false);
        }
        // What came before may still be read.
        self.barrier();
        let (low, high) = (self.int32(lo)?, self.int32(hi)?);
        let range = self.span_range(lo, hi);
        let some = self.b.cmp(Cmp::Slt, low, high);
        self.when(some, |l| l.bring_early(&form, &halves, low, range))?;
        self.b.push(Inst::Async(Async::Commit));
        self.count_loop((low, high, 1), |l, i| {
            l.bind(var, i, range);
            l.iteration(&form, &halves, (i, high), range)
        })?;
        self.barrier();
        Ok(true)
    }

    /// Copies what iteration `i` reads first into its stage, if it works on its tile.
    fn bring_early(
        &mut self,
        form: &Form<'_>,
        halves: &[Half],
        i: Val,
        range: attn_compiler::expr::range::Range,
    ) -> Result<()> {
        self.afresh(|l| {
            l.bind(form.var, i, range);
            l.name(form.lets)?;
            let cond = l.scalar(form.cond)?;
            l.when(cond, |l| {
                for (product, half) in form.products.iter().zip(halves).filter(|(p, _)| early(p)) {
                    let half = l.in_stage(*half, i);
                    let right = l.right_operand(product)?;
                    l.bring(&right, half)?;
                }
                Ok(())
            })
        })
    }

    /// The tile of iteration `i` among two.
    fn in_stage(&mut self, half: Half, i: Val) -> Half {
        let odd = self.b.bin_int(Bin::And, i, 1);
        let bytes =
            self.b.bin_int(Bin::Mul, odd, (half.bytes() as u64).next_multiple_of(half.align()) as i64);
        Half { stage: Some(bytes), ..half }
    }

    fn name(&mut self, lets: &[Stmt]) -> Result<()> {
        for stmt in lets {
            if let Stmt::Let { var, value } = stmt {
                let range = self.range(*value);
                let value = self.scalar(*value)?;
                self.bind(*var, value, range);
            }
        }
        Ok(())
    }

    /// Runs `f` with the variables that are bound and nothing else remembered; forgets what it remembers.
    fn afresh(&mut self, f: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        let (memo, ranges) = (self.memo.clone(), self.ranges.clone());
        let trail = std::mem::take(&mut self.trail);
        self.memo.retain(|key, _| !matches!(key, Key::Expr(_)));
        let done = f(self);
        (self.memo, self.ranges, self.trail) = (memo, ranges, trail);
        done
    }

    fn iteration(
        &mut self,
        form: &Form<'_>,
        halves: &[Half],
        (i, high): (Val, Val),
        range: attn_compiler::expr::range::Range,
    ) -> Result<()> {
        let panels = halves.iter().any(|h| h.panels);
        self.name(form.lets)?;
        let cond = self.scalar(form.cond)?;
        // What was brought for this iteration is here, and everything of the one before has been read.
        self.wait_copies(panels, 0);
        self.barrier();
        self.when(cond, |l| {
            for (product, half) in form.products.iter().zip(halves).filter(|(p, _)| !early(p)) {
                let right = l.right_operand(product)?;
                l.bring(&right, *half)?;
            }
            Ok(())
        })?;
        self.b.push(Inst::Async(Async::Commit));
        let next = self.b.bin_int(Bin::Add, i, 1);
        let more = self.b.cmp(Cmp::Slt, next, high);
        self.when(more, |l| l.bring_early(form, halves, next, range))?;
        self.b.push(Inst::Async(Async::Commit));
        let mut tiles = VecDeque::new();
        for (product, half) in form.products.iter().zip(halves) {
            let half = if early(product) { self.in_stage(*half, i) } else { *half };
            tiles.push_back(Staged { half, late: !early(product) });
        }
        self.queue = Some(Queue { tiles, arrived: false });
        let then = self.scoped(|l| l.block(form.then))?;
        self.queue = None;
        self.b.push(Inst::If { cond, then, otherwise: vec![] });
        Ok(())
    }

    /// The tile that the next product reads, if it was brought ahead. A late one has arrived when it is given out.
    pub(super) fn next_staged(&mut self) -> Option<Half> {
        let queue = self.queue.as_mut()?;
        let staged = queue.tiles.pop_front()?;
        if staged.late && !queue.arrived {
            queue.arrived = true;
            // The next iteration's group may be on its way.
            self.wait_copies(staged.half.panels, 1);
            self.barrier();
        }
        Some(staged.half)
    }
}
