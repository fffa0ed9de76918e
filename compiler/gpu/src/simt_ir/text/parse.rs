//! Reads the text of a [`Kernel`].
//!
//! Comes in: text as [`super::print`] writes it; comments (`// ...`) and any white space are allowed. Goes out: a kernel, or
//! the first error with its line. A value is known by its number, wherever it is defined; that it is used where it is
//! defined is for the verifier to say. Every number below the largest has a type, so that no text makes a table that is
//! longer than itself.

use std::collections::BTreeMap;

use attn_compiler::expr::parse::{ParseError, Reader, Token};

use super::{BINS, CASTS, CMPS, TYPES, UNS, by_name};
use crate::simt_ir::{
    Async, AtomicInc, Bulk, Inst, Kernel, LdMatrix, Mbar, Mma, Op, Slot, Space, Ty, Val, Wgmma, WgmmaLeft,
};

/// Deepest nesting of blocks that text may have.
const MAX_BLOCKS: usize = 64;
/// Most slots: a range of them is short text.
const MAX_SLOTS: u32 = 1 << 16;

/// What is wrong with a text, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the SIMT IR: {message}")]
pub struct TextError {
    /// From 1; of the last token that was taken.
    pub line: usize,
    /// What was expected and found.
    pub message: String,
}

/// Reads one kernel.
///
/// # Errors
/// The first thing that is no SIMT IR.
pub fn parse(text: &str) -> Result<Kernel, TextError> {
    read(text, |r| {
        let kernel = Parser::kernel(r)?;
        r.end()?;
        Ok(kernel)
    })
}

/// Reads kernels up to the end of the text.
///
/// # Errors
/// As [`parse`].
pub fn parse_module(text: &str) -> Result<Vec<Kernel>, TextError> {
    read(text, |r| {
        let mut kernels = Vec::new();
        while r.peek()?.is_some() {
            kernels.push(Parser::kernel(r)?);
        }
        Ok(kernels)
    })
}

fn read<T>(text: &str, f: impl FnOnce(&mut Reader<'_>) -> Result<T>) -> Result<T, TextError> {
    f(&mut Reader::new(text)).map_err(|e| {
        let before = text.get(..e.at).unwrap_or(text);
        TextError { line: before.matches('\n').count() + 1, message: e.message }
    })
}

type Result<T, E = ParseError> = std::result::Result<T, E>;

struct Parser<'r, 'a> {
    r: &'r mut Reader<'a>,
    vals: BTreeMap<u32, Ty>,
}

impl Parser<'_, '_> {
    fn kernel(r: &mut Reader<'_>) -> Result<Kernel> {
        let mut p = Parser { r, vals: BTreeMap::new() };
        p.r.expect_word("kernel")?;
        let name = p.r.word()?;
        p.r.expect("{")?;
        let mut counts = [0; 4];
        for (word, n) in ["params", "maps", "threads", "shared"].into_iter().zip(&mut counts) {
            p.r.expect_word(word)?;
            *n = p.count()?;
        }
        let [n_params, n_maps, threads, shared_bytes] = counts;
        let mut slots = Vec::new();
        while p.r.eat_word("slots")? {
            let (first, end) = p.slot_range()?;
            if first as usize != slots.len() {
                return p.r.error(format!("the next slot is s{}", slots.len()));
            }
            p.r.expect(":")?;
            slots.resize(end as usize, p.ty()?);
        }
        while p.r.eat_word("value")? {
            p.defined()?;
        }
        let body = p.block(MAX_BLOCKS)?;
        let n = p.vals.len() as u32;
        if let Some(missing) = (0..n).find(|v| !p.vals.contains_key(v)) {
            return p.r.error(format!("%{missing} is nowhere defined, and larger numbers are"));
        }
        let vals = p.vals.into_values().collect();
        Ok(Kernel { name, n_params, n_maps, threads, shared_bytes, vals, slots, body })
    }

    /// Instructions up to `}`.
    fn block(&mut self, depth: usize) -> Result<Vec<Inst>> {
        if depth == 0 {
            return self.r.error(format!("blocks are nested deeper than {MAX_BLOCKS}"));
        }
        let mut out = Vec::new();
        while !self.r.eat("}")? {
            out.push(self.inst(depth)?);
        }
        Ok(out)
    }

    /// One arm for each instruction (tidy: long match).
    fn inst(&mut self, depth: usize) -> Result<Inst> {
        let word = self.r.word()?;
        if word.starts_with('%') {
            return self.definition(&word);
        }
        Ok(match word.as_str() {
            "set" => {
                let slot = self.slot()?;
                self.r.expect("=")?;
                Inst::Set(slot, self.val()?)
            }
            "store" => {
                let (space, addr) = self.place()?;
                self.r.expect("=")?;
                Inst::Store(space, addr, self.val()?)
            }
            "bar" => Inst::Bar,
            "warp_bar" => Inst::WarpBar,
            "if" => {
                let cond = self.val()?;
                self.r.expect("{")?;
                let then = self.block(depth - 1)?;
                let mut otherwise = Vec::new();
                if self.r.eat_word("else")? {
                    self.r.expect("{")?;
                    otherwise = self.block(depth - 1)?;
                }
                Inst::If { cond, then, otherwise }
            }
            "loop" => {
                let afresh = self.r.eat_word("afresh")?;
                self.r.expect("{")?;
                Inst::Loop { body: self.block(depth - 1)?, afresh }
            }
            "break_if" => Inst::BreakIf(self.val()?),
            "mma" => {
                let (bf16, d) = (self.half()?, self.slots()?);
                let d = self.just(d, "slots")?;
                self.r.expect("+=")?;
                let a = self.vals()?;
                let a = self.just(a, "values on the left")?;
                self.r.expect("*")?;
                let b = self.vals()?;
                Inst::Mma(Mma { bf16, d, a, b: self.just(b, "values on the right")? })
            }
            "copy_async" => {
                let dst = self.place_in(Space::Shared)?;
                self.r.expect("<-")?;
                let src = self.place_in(Space::Global)?;
                Inst::Async(Async::Copy { dst, src, bytes: self.named_val("bytes")? })
            }
            "commit_async" => Inst::Async(Async::Commit),
            "wait_async" => Inst::Async(Async::Wait(self.count()?)),
            "named_bar" => {
                let wait = self.either("wait", "arrive")?;
                let id = self.count()?;
                Inst::NamedBar { wait, id, threads: self.named_count("threads")? }
            }
            "registers" => {
                let more = self.either("more", "fewer")?;
                Inst::Registers { count: self.count()?, more }
            }
            "tma_store" => {
                self.r.expect_word("map")?;
                let (map, coords) = (self.count()?, self.vals()?);
                self.r.expect("<-")?;
                Inst::Bulk(Bulk::Store { src: self.place_in(Space::Shared)?, map, coords })
            }
            "commit_stores" => Inst::Bulk(Bulk::Commit),
            "wait_stores" => Inst::Bulk(Bulk::WaitRead(self.count()?)),
            _ => match (self.wgmma(&word)?, self.mbar(&word)?) {
                (Some(op), _) => Inst::Wgmma(op),
                (_, Some(op)) => Inst::Mbar(op),
                _ => return self.r.error(format!("`{word}` is no instruction")),
            },
        })
    }

    /// `%0: i32 = ...`, of which `%0` has been taken.
    fn definition(&mut self, first: &str) -> Result<Inst> {
        let first = self.number(first, "%")?;
        let mut all = vec![Val(first)];
        self.typed(first)?;
        while self.r.eat(",")? {
            all.push(self.defined()?);
        }
        self.r.expect("=")?;
        let word = self.r.word()?;
        if let Some(trans) = [("ldmatrix", false), ("ldmatrix_trans", true)]
            .into_iter()
            .find_map(|(name, trans)| (name == word).then_some(trans))
        {
            let addr = self.place_in(Space::Shared)?;
            return Ok(Inst::LdMatrix(LdMatrix { dst: self.just(all, "results")?, addr, trans }));
        }
        if word == "atomic_inc" {
            let at = self.place_in(Space::Global)?;
            let most = self.named_val("most")?;
            let [dst] = self.just(all, "result")?;
            return Ok(Inst::AtomicInc(AtomicInc { dst, at, most }));
        }
        let op = self.op(&word)?;
        let [v] = self.just(all, "result")?;
        Ok(Inst::Def(v, op))
    }

    fn op(&mut self, word: &str) -> Result<Op> {
        Ok(match word {
            "int" => Op::Int(self.r.integer()?),
            "float" => Op::Float(self.float()?),
            "param" => Op::Param(self.count()?),
            "tid" => Op::Tid,
            "ctaid" => Op::Ctaid,
            "nctaid" => Op::Nctaid,
            "shared_base" => Op::SharedBase,
            "select" => {
                let [c, a, b] = self.three()?;
                Op::Select(c, a, b)
            }
            "fma" => {
                let [a, b, c] = self.three()?;
                Op::Fma(a, b, c)
            }
            "load" => {
                let (space, addr) = self.place()?;
                Op::Load(space, addr)
            }
            "get" => Op::Get(self.slot()?),
            "pack" => {
                let bf16 = self.half()?;
                let [low, high] = self.two()?;
                Op::Pack { bf16, low, high }
            }
            "shfl" => {
                let v = self.val()?;
                self.r.expect(",")?;
                Op::Shfl(v, self.count()?)
            }
            "uniform" => Op::Uniform(self.val()?),
            _ => {
                if let Some(op) = by_name(&UNS, word) {
                    Op::Un(op, self.val()?)
                } else if let Some(cast) = by_name(&CASTS, word) {
                    Op::Cast(cast, self.val()?)
                } else if let Some(op) = by_name(&BINS, word) {
                    let [a, b] = self.two()?;
                    Op::Bin(op, a, b)
                } else if let Some(op) = by_name(&CMPS, word) {
                    let [a, b] = self.two()?;
                    Op::Cmp(op, a, b)
                } else {
                    return self.r.error(format!("`{word}` is no operation"));
                }
            }
        })
    }

    fn wgmma(&mut self, word: &str) -> Result<Option<Wgmma>> {
        Ok(Some(match word {
            "wgmma_fence" => Wgmma::Fence,
            "wgmma_commit" => Wgmma::Commit,
            "wgmma_wait" => Wgmma::Wait(self.count()?, self.slots()?),
            "proxy_fence" => Wgmma::ProxyFence,
            "wgmma" => {
                let (bf16, d) = (self.half()?, self.slots()?);
                let accumulate = self.r.eat("+=")?;
                if !accumulate {
                    self.r.expect("=")?;
                }
                let a = match self.r.peek()? {
                    Some(Token::Word(_)) => {
                        self.r.expect_word("tile")?;
                        WgmmaLeft::Shared(self.in_parentheses()?)
                    }
                    _ => {
                        let all = self.vals()?;
                        WgmmaLeft::Registers(self.just(all, "values on the left")?)
                    }
                };
                self.r.expect("*")?;
                let trans_b = self.either("tile_trans", "tile")?;
                Wgmma::Product { bf16, d, a, b: self.in_parentheses()?, trans_b, accumulate }
            }
            _ => return Ok(None),
        }))
    }

    fn mbar(&mut self, word: &str) -> Result<Option<Mbar>> {
        Ok(Some(match word {
            "mbar_init" => Mbar::Init { at: self.val()?, count: self.named_count("count")? },
            "mbar_fence_init" => Mbar::FenceInit,
            "mbar_expect" => Mbar::ArriveExpect { at: self.val()?, bytes: self.named_count("bytes")? },
            "mbar_arrive" => Mbar::Arrive { at: self.val()? },
            "mbar_wait" => Mbar::Wait { at: self.val()?, parity: self.named_val("parity")? },
            "tma_load" => {
                let dst = self.place_in(Space::Shared)?;
                self.r.expect("<-")?;
                self.r.expect_word("map")?;
                let (map, coords) = (self.count()?, self.vals()?);
                Mbar::Copy { dst, map, coords, bar: self.named_val("bar")? }
            }
            _ => return Ok(None),
        }))
    }

    /// The number of a name such as `%12`.
    fn number(&mut self, word: &str, prefix: &str) -> Result<u32> {
        match word.strip_prefix(prefix).and_then(|n| n.parse().ok()) {
            Some(n) => Ok(n),
            None => self.r.error(format!("`{word}` is not `{prefix}` and a number")),
        }
    }

    fn val(&mut self) -> Result<Val> {
        let word = self.r.word()?;
        self.number(&word, "%").map(Val)
    }

    /// `%3: i32`
    fn defined(&mut self) -> Result<Val> {
        let v = self.val()?;
        self.typed(v.0)?;
        Ok(v)
    }

    fn typed(&mut self, n: u32) -> Result<()> {
        self.r.expect(":")?;
        let ty = self.ty()?;
        match self.vals.insert(n, ty) {
            Some(old) if old != ty => self.r.error(format!("%{n} is already defined with another type")),
            _ => Ok(()),
        }
    }

    fn ty(&mut self) -> Result<Ty> {
        let word = self.r.word()?;
        match by_name(&TYPES, &word) {
            Some(ty) => Ok(ty),
            None => self.r.error(format!("`{word}` is no type")),
        }
    }

    fn slot(&mut self) -> Result<Slot> {
        let word = self.r.word()?;
        self.number(&word, "s").map(Slot)
    }

    /// `s0..s4`
    fn slot_range(&mut self) -> Result<(u32, u32)> {
        let first = self.slot()?.0;
        self.r.expect("..")?;
        let end = self.slot()?.0;
        if first >= end || end > MAX_SLOTS {
            return self.r.error(format!("s{first}..s{end} is no range of slots below s{MAX_SLOTS}"));
        }
        Ok((first, end))
    }

    /// `[s0..s4, s9]`
    fn slots(&mut self) -> Result<Vec<Slot>> {
        let mut out = Vec::new();
        self.r.expect("[")?;
        while !self.r.eat("]")? {
            let first = self.slot()?;
            if self.r.eat("..")? {
                let end = self.slot()?.0.min(MAX_SLOTS);
                out.extend((first.0..end).map(Slot));
            } else {
                out.push(first);
            }
            let _ = self.r.eat(",")?;
        }
        Ok(out)
    }

    fn vals(&mut self) -> Result<Vec<Val>> {
        let mut out = Vec::new();
        self.r.expect("[")?;
        while !self.r.eat("]")? {
            out.push(self.val()?);
            let _ = self.r.eat(",")?;
        }
        Ok(out)
    }

    /// Exactly so many.
    fn just<T, const N: usize>(&mut self, all: Vec<T>, what: &str) -> Result<[T; N]> {
        let n = all.len();
        match all.try_into() {
            Ok(all) => Ok(all),
            Err(_) => self.r.error(format!("expected {N} {what}, found {n}")),
        }
    }

    fn two(&mut self) -> Result<[Val; 2]> {
        let a = self.val()?;
        self.r.expect(",")?;
        Ok([a, self.val()?])
    }

    fn three(&mut self) -> Result<[Val; 3]> {
        let [a, b] = self.two()?;
        self.r.expect(",")?;
        Ok([a, b, self.val()?])
    }

    fn in_parentheses(&mut self) -> Result<Val> {
        self.r.expect("(")?;
        let v = self.val()?;
        self.r.expect(")")?;
        Ok(v)
    }

    /// `global[%3]`
    fn place(&mut self) -> Result<(Space, Val)> {
        let space = if self.either("global", "shared")? { Space::Global } else { Space::Shared };
        self.r.expect("[")?;
        let addr = self.val()?;
        self.r.expect("]")?;
        Ok((space, addr))
    }

    fn place_in(&mut self, wanted: Space) -> Result<Val> {
        match self.place()? {
            (space, addr) if space == wanted => Ok(addr),
            (space, _) => self.r.error(format!("the place lies in {space:?} memory, not in {wanted:?}")),
        }
    }

    /// Is it the first of two words? One of both is taken.
    fn either(&mut self, yes: &str, no: &str) -> Result<bool> {
        if self.r.eat_word(yes)? {
            return Ok(true);
        }
        if self.r.eat_word(no)? { Ok(false) } else { self.r.expected(&format!("`{yes}` or `{no}`")) }
    }

    fn half(&mut self) -> Result<bool> {
        self.either("bf16", "f16")
    }

    fn count(&mut self) -> Result<u32> {
        let n = self.r.integer()?;
        match u32::try_from(n) {
            Ok(n) => Ok(n),
            Err(_) => self.r.error(format!("{n} is no count of 32 bits")),
        }
    }

    fn named(&mut self, name: &str) -> Result<()> {
        self.r.expect(",")?;
        self.r.expect_word(name)?;
        self.r.expect("=")
    }

    /// `, bytes = %3`
    fn named_val(&mut self, name: &str) -> Result<Val> {
        self.named(name)?;
        self.val()
    }

    /// `, count = 3`
    fn named_count(&mut self, name: &str) -> Result<u32> {
        self.named(name)?;
        self.count()
    }

    fn float(&mut self) -> Result<f64> {
        let sign = if self.r.eat("-")? { -1.0 } else { 1.0 };
        match self.r.next()? {
            Some(Token::Float(x)) => Ok(sign * x),
            Some(Token::Word(w)) if w == "inf" => Ok(sign * f64::INFINITY),
            Some(Token::Word(w)) if w == "nan" => Ok(f64::NAN),
            _ => self.r.error("expected a float"),
        }
    }
}
