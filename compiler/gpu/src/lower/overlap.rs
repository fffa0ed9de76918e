//! In which order a loop over tiles multiplies and weighs, where warps have roles (FlashAttention 3, Shah et al. 2024).
//!
//! Comes in: a loop of a launch whose tiles lie in registers. Goes out: an [`Order`], and the loop's tiles in it. What holds:
//! rings are gone through in the order of the text, as the warps that bring tiles do; a product's sums and the weights that it
//! reads are touched by nothing else until it was waited for; sums are the same bit for bit in every order.
//!
//! Two things, each where it can be:
//!
//! - *Turns* (section 3.1): of two warpgroups one multiplies while the other weighs.
//! - *Overlap* (section 3.2): weights wait, rounded to pairs, until the scores of the next tile are asked for; their product
//!   with the values runs while those are weighed. A tile that is skipped leaves them waiting; behind the loop comes the last
//!   product. It takes registers for the pairs beside all tiles.

use attn_compiler::tile_ir::{Operand, Rest, Stmt};

use super::layout::Place;
use super::products::{Left, Product};
use super::roles::{Ring, Role};
use super::sync::touches;
use super::{Lower, Result};
use crate::GpuError;
use crate::report::LoopOrder;
use crate::simt_ir::{Bin, Cmp, Inst, Mbar, Slot, Val, Wgmma};

/// Most registers that tiles and waiting weights may take of a thread's, where one or two warpgroups compute.
const MOST_REGISTERS: i64 = 200;
/// The same for three.
const MOST_REGISTERS_OF_THREE: i64 = 120;

/// How the products of a loop follow each other.
#[derive(Clone, Debug, Default)]
pub(super) struct Order {
    /// Two warpgroups take turns at the tensor cores.
    turns: bool,
    /// The weights of a tile wait while the next one's scores are computed.
    waiting: Option<Waiting>,
}

/// Weights that wait for their product with the values.
#[derive(Clone, Debug)]
struct Waiting {
    /// There are some.
    some: Slot,
    /// Their pairs.
    pairs: Vec<Slot>,
    /// The ring of the values and the product, of whichever stage: known once the loop's body is written.
    product: Option<(Ring, Product)>,
}

/// What is done with a tile, taken apart.
struct Step<'a> {
    /// Names values.
    names: &'a [Stmt],
    /// Products with keys.
    scores: &'a [Stmt],
    /// From scores to weights.
    weighs: &'a [Stmt],
    /// The product with values.
    values: &'a Stmt,
}

/// What a statement of a loop over tiles is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Scores,
    Weights,
    Values,
}

/// The kinds of the statements of a block, in order.
fn kinds_of(stmts: &[Stmt], out: &mut Vec<Kind>) {
    for stmt in stmts {
        match stmt {
            Stmt::For { body, .. } => kinds_of(body, out),
            Stmt::If { then, otherwise, .. } => {
                kinds_of(then, out);
                kinds_of(otherwise, out);
            }
            Stmt::Gemm { b: Operand::Columns(_), .. } => out.push(Kind::Scores),
            Stmt::Gemm { .. } => out.push(Kind::Values),
            Stmt::SoftmaxStep { .. } | Stmt::WeightStep { .. } => out.push(Kind::Weights),
            _ => {}
        }
    }
}

/// Scores, then weights, then products of them?
fn multiplies_weights(body: &[Stmt]) -> bool {
    let mut kinds = Vec::new();
    kinds_of(body, &mut kinds);
    let scores = kinds.iter().take_while(|k| **k == Kind::Scores).count();
    scores > 0
        && kinds.get(scores) == Some(&Kind::Weights)
        && kinds.len() > scores + 1
        && kinds[scores + 1..].iter().all(|k| *k == Kind::Values)
}

/// Does a statement only name a value?
fn names(stmt: &Stmt) -> bool {
    matches!(stmt, Stmt::Let { .. } | Stmt::Any { .. } | Stmt::First { .. })
}

fn is_product(stmt: &Stmt) -> bool {
    matches!(stmt, Stmt::Gemm { .. })
}

/// Does any statement multiply, load or store, at any depth?
fn moves_tiles(stmts: &[Stmt]) -> bool {
    stmts.iter().any(|stmt| match stmt {
        Stmt::For { body, .. } => moves_tiles(body),
        Stmt::If { then, otherwise, .. } => moves_tiles(then) || moves_tiles(otherwise),
        Stmt::Gemm { .. }
        | Stmt::LoadRows { .. }
        | Stmt::StoreRows { .. }
        | Stmt::StoreVec { .. }
        | Stmt::StoreMap { .. } => true,
        _ => false,
    })
}

impl<'a> Step<'a> {
    /// A block that has this form.
    fn of(block: &'a [Stmt]) -> Option<Step<'a>> {
        let (values, rest) = block.split_last()?;
        let named = rest.iter().take_while(|s| names(s)).count();
        let (names, rest) = rest.split_at(named);
        let multiplied = rest.iter().take_while(|s| is_product(s)).count();
        let (scores, weighs) = rest.split_at(multiplied);
        let Stmt::Gemm { c, rest: Rest::None, b: Operand::Rows(_), accumulate: true, .. } = values else {
            return None;
        };
        let plain = |stmt: &Stmt| matches!(stmt, Stmt::Gemm { b: Operand::Columns(_), row_scale: None, .. });
        let good = !scores.is_empty() && scores.iter().all(plain) && !moves_tiles(weighs);
        (good && !touches(weighs, *c)).then_some(Step { names, scores, weighs, values })
    }

    /// The only block of a loop's body that does something, at any depth, if it has this form.
    fn within(body: &'a [Stmt]) -> Option<Step<'a>> {
        if body.iter().any(is_product) {
            return Step::of(body);
        }
        let mut blocks = Vec::new();
        for stmt in body.iter().filter(|s| !names(s)) {
            match stmt {
                Stmt::For { body, .. } => blocks.push(body),
                Stmt::If { then, otherwise, .. } => blocks.extend([then, otherwise]),
                _ => return None,
            }
        }
        blocks.retain(|block| !block.is_empty());
        match blocks.as_slice() {
            [one] => Step::within(one),
            _ => None,
        }
    }
}

impl Lower<'_> {
    /// The order of a loop's products.
    fn order_of(&mut self, body: &[Stmt]) -> Result<Option<Order>> {
        if self.role != Role::Consumer || !multiplies_weights(body) {
            return Ok(None);
        }
        let turns = self.threads == 256;
        let waiting = match Step::within(body) {
            Some(step) => self.waiting_of(&step)?,
            None => None,
        };
        Ok((turns || waiting.is_some()).then_some(Order { turns, waiting }))
    }

    /// Room for weights that wait, if there is.
    fn waiting_of(&mut self, step: &Step<'_>) -> Result<Option<Waiting>> {
        let Stmt::Gemm { a, .. } = step.values else { return Ok(None) };
        let from_shared = |stmt: &Stmt| match stmt {
            Stmt::Gemm { a, .. } => matches!(self.place(*a), Some(Place::Half(_))),
            _ => false,
        };
        if self.place(*a) != Some(Place::Fragment) || !step.scores.iter().all(from_shared) {
            return Ok(None);
        }
        let pairs = self.fragment(*a)?.len() / 2;
        let taken: usize = self.registers.values().map(Vec::len).sum();
        let most = if self.threads > 256 { MOST_REGISTERS_OF_THREE } else { MOST_REGISTERS };
        if (taken + pairs) as i64 > most {
            return Ok(None);
        }
        let no = self.b.bool(false);
        let some = self.b.slot(no);
        let none = self.b.i32(0);
        let pairs = (0..pairs).map(|_| self.b.slot(none)).collect();
        Ok(Some(Waiting { some, pairs, product: None }))
    }

    /// Begins a loop: its order is that of all its tiles. False where the loop around it has one, or it needs none.
    pub(super) fn begin_order(&mut self, body: &[Stmt]) -> Result<bool> {
        if self.order.is_some() {
            return Ok(false);
        }
        let Some(order) = self.order_of(body)? else { return Ok(false) };
        // Nobody waits for the other warpgroup in its turn.
        self.barrier();
        if order.turns {
            self.first_turn()?;
            if order.waiting.is_none() {
                self.begin_turn()?;
            }
        }
        self.orders.push(LoopOrder { turns: order.turns, overlaps: order.waiting.is_some() });
        self.order = Some(order);
        Ok(true)
    }

    /// Ends the loop that began an order.
    pub(super) fn end_order(&mut self) -> Result<()> {
        let Some(order) = self.order.take() else { return Ok(()) };
        if order.turns {
            if order.waiting.is_some() {
                self.begin_turn()?;
            }
            self.last_turn()?;
        }
        let Some(Waiting { some, product: Some((ring, product)), .. }) = order.waiting else { return Ok(()) };
        let waits = self.b.get(some);
        self.when(waits, |l| {
            let stage = l.last_stage(&ring);
            let product = Product { half: stage.half, ..product };
            l.issue(&[&product]);
            l.b.push(Inst::Wgmma(Wgmma::Wait(0, product.sums)));
            l.release(stage.empty)
        })
    }

    /// Weights between the products: the other warpgroup may multiply.
    pub(super) fn in_turns(&mut self, f: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        if !self.order.as_ref().is_some_and(|o| o.turns && o.waiting.is_none()) {
            return f(self);
        }
        self.end_turn()?;
        f(self)?;
        self.begin_turn()
    }

    /// Writes a block whose products overlap. False if it is none.
    pub(super) fn overlapped(&mut self, block: &[Stmt]) -> Result<bool> {
        let Some(Order { turns, waiting: Some(waiting) }) = self.order.clone() else { return Ok(false) };
        if !block.iter().any(is_product) {
            return Ok(false);
        }
        let Some(step) = Step::of(block) else {
            return Err(GpuError::internal("overlap", "a block of the form that the loop has", "gemm"));
        };
        self.overlapped_step(&step, turns, waiting)?;
        Ok(true)
    }

    fn overlapped_step(&mut self, step: &Step<'_>, turns: bool, waiting: Waiting) -> Result<()> {
        let Stmt::Gemm { row_scale, .. } = step.values else { return Ok(()) };
        self.block(step.names)?;
        if turns {
            self.begin_turn()?;
        }
        let (mut scores, mut read) = (Vec::new(), Vec::new());
        for stmt in step.scores {
            self.touch_left(stmt)?;
            let ring = self.next_ring()?;
            let stage = self.awaited(&ring);
            scores.push(self.product(stmt, stage.half)?);
            read.push(stage.empty);
        }
        let mut asked: Vec<Slot> = scores.iter().flat_map(|p| p.sums.clone()).collect();
        asked.sort_unstable();
        asked.dedup();
        self.issue(&scores.iter().collect::<Vec<_>>());
        // The values of the tile before came while it was weighed.
        let ring = self.next_ring()?;
        let before = self.last_stage(&ring);
        let product = self.product(step.values, before.half)?;
        let product = Product { lefts: vec![Left::Pairs(waiting.pairs.clone())], ..product };
        self.ask_with(&product, &asked, turns, waiting.some)?;
        read.into_iter().try_for_each(|empty| self.release(empty))?;
        self.block(step.weighs)?;
        // This wait comes before that for the product, as ptxas moves the latter up over arithmetic but not over a branch.
        self.awaited(&ring);
        self.b.push(Inst::Wgmma(Wgmma::Wait(0, product.sums.clone())));
        self.release_waiting(before.empty, waiting.some)?;
        self.rescale(&product.sums, *row_scale)?;
        self.keep_weights(step.values, &waiting, product.bf16)?;
        if let Some(Order { waiting: Some(waiting), .. }) = &mut self.order {
            waiting.product = Some((ring, product));
        }
        Ok(())
    }

    /// Starts the product of the weights that wait, if some do; then waits for what was asked before.
    fn ask_with(&mut self, product: &Product, asked: &[Slot], turns: bool, some: Slot) -> Result<()> {
        let waits = self.b.get(some);
        let mut branch = |pending: u32| {
            self.scoped(|l| {
                if pending > 0 {
                    l.issue(&[product]);
                }
                if turns {
                    l.end_turn()?;
                }
                l.b.push(Inst::Wgmma(Wgmma::Wait(pending, asked.to_vec())));
                Ok(())
            })
        };
        let (then, otherwise) = (branch(1)?, branch(0)?);
        self.b.push(Inst::If { cond: waits, then, otherwise });
        Ok(())
    }

    /// This warp has read the values of the tile before, if there was one.
    fn release_waiting(&mut self, empty: Val, some: Slot) -> Result<()> {
        let waits = self.b.get(some);
        let zero = self.b.i32(0);
        let leads = self.b.cmp(Cmp::Eq, self.lane, zero);
        let both = self.b.bin(Bin::And, waits, leads);
        self.when(both, |l| {
            l.b.push(Inst::Mbar(Mbar::Arrive { at: empty }));
            Ok(())
        })
    }

    /// The weights of this tile wait from here on.
    fn keep_weights(&mut self, values: &Stmt, waiting: &Waiting, bf16: bool) -> Result<()> {
        let Stmt::Gemm { a, .. } = values else { return Ok(()) };
        let from = self.fragment(*a)?;
        for (n, pair) in waiting.pairs.iter().enumerate() {
            let both = self.rounded(&from, 2 * n, bf16);
            self.b.set(*pair, both);
        }
        let yes = self.b.bool(true);
        self.b.set(waiting.some, yes);
        Ok(())
    }
}
