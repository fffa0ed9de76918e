//! What `map` and `rotate` do to rows: checked facts, and the frequencies of `rope` as expressions.
//!
//! Comes in: the clauses, from `rotate.rs`; goes out to `turn.rs`, which makes derived tensors of them. What holds:
//! `rope` is a rotation of pairs whose angle is `pos * inv_freq(d)`, formed in f32 from an f32 `inv_freq`, as
//! released models do (Su et al. 2021); the scalings are those of math.md 2.3, each an expression of the pair's
//! index `d`, so that nothing below knows their names. Not here: which tensor is read where.

use std::sync::Arc;

use crate::diagnostic::Span;
use crate::expr::{BinaryOp, ExprId, Pool, UnaryOp};

use super::hir::{Expr, Type, Uses};
use super::lower::{Lower, LowerError};

/// One operation on the rows of one tensor.
#[derive(Clone, Debug)]
pub(crate) struct RowOp {
    /// Position in the kernel's tensors.
    pub tensor: usize,
    /// What is done.
    pub kind: RowOpKind,
    /// The clause's operation.
    pub span: Span,
}

impl RowOp {
    /// What its expressions read.
    pub fn uses(&self) -> Uses {
        match &self.kind {
            RowOpKind::Map(e) => e.uses,
            RowOpKind::Double { theta, at } => theta.uses.or(at.uses),
            RowOpKind::Pairs(p) => p.at.iter().fold(Uses::NONE, |u, e| u.or(e.uses)),
        }
    }
}

/// What is done to a row.
#[derive(Clone, Debug)]
pub(crate) enum RowOpKind {
    /// Every element becomes this function of `Elem::X0`.
    Map(Expr),
    /// Pairs are turned.
    Pairs(Arc<Pairs>),
    /// `[x cos(at * theta), x sin(at * theta)]`: twice as long.
    Double {
        /// A row of frequencies.
        theta: Expr,
        /// The position.
        at: Expr,
    },
}

/// A rotation of pairs.
#[derive(Clone, Debug)]
pub(crate) struct Pairs {
    /// Leading dims that are turned; all without.
    pub dims: Option<i64>,
    /// (x[2d], x[2d + 1]) instead of (x[d], x[d + dims / 2]).
    pub interleaved: bool,
    /// Pairs for each position, in order; empty for one position.
    pub sections: Vec<i64>,
    /// One position, or one for each section.
    pub at: Vec<Expr>,
    /// How a pair turns.
    pub turn: Turn,
}

impl Pairs {
    /// A `position` of the author, on the whole row, its halves paired.
    pub fn of_user(pair: [Expr; 2]) -> Pairs {
        Pairs { dims: None, interleaved: false, sections: Vec::new(), at: Vec::new(), turn: Turn::User(pair) }
    }
}

/// How a pair turns.
#[derive(Clone, Debug)]
pub(crate) enum Turn {
    /// By `pos * inv_freq(d)`.
    Rope {
        /// Base.
        theta: Expr,
        /// Change of the frequencies.
        scaling: Scaling,
    },
    /// The new pair, as expressions of `Elem`.
    User([Expr; 2]),
}

/// A scaling of rotary frequencies; each argument as in `rope(scaling = ...)`.
#[derive(Clone, Debug)]
pub(crate) enum Scaling {
    /// Unchanged.
    None,
    /// Position interpolation (Chen et al. 2023): slower by f.
    Pi(Expr),
    /// NTK-aware: the base grows.
    Ntk(Expr),
    /// Dynamic NTK with an explicit length: f, original, len.
    DynNtk([Expr; 3]),
    /// YaRN (Peng et al. 2023): factor, original; fast, slow, attn_factor; whether the ends of the ramp are whole.
    Yarn([Expr; 2], [Option<Expr>; 3], Option<Expr>),
    /// Llama 3: factor, low, high, original.
    Llama3([Expr; 4]),
    /// LongRoPE (Ding et al. 2024): short, long; original; len, factor, attn_factor.
    Longrope([Vec<Expr>; 2], Expr, [Option<Expr>; 3]),
}

impl Scaling {
    /// From the bound arguments of the call, in order of their names; required ones are there.
    pub fn of(name: &str, mut args: Vec<Vec<Expr>>) -> Scaling {
        let one = |n: usize| args.get(n).and_then(|a| a.first().cloned());
        match (name, one(0), one(1), one(2), one(3)) {
            ("pi", Some(f), ..) => Scaling::Pi(f),
            ("ntk", Some(f), ..) => Scaling::Ntk(f),
            _ if args.len() < 3 => Scaling::None,
            ("dyn_ntk", Some(f), Some(original), Some(len), _) => Scaling::DynNtk([f, original, len]),
            ("yarn", Some(f), Some(original), ..) => {
                let mut last = |n: usize| args.get_mut(n).and_then(|a| a.first().cloned());
                Scaling::Yarn([f, original], [last(2), last(3), last(4)], last(5))
            }
            ("llama3", Some(f), Some(low), Some(high), Some(original)) => {
                Scaling::Llama3([f, low, high, original])
            }
            ("longrope", _, _, Some(original), _) => {
                let lists = [std::mem::take(&mut args[0]), std::mem::take(&mut args[1])];
                let mut last = |n: usize| args.get_mut(n).and_then(|a| a.first().cloned());
                Scaling::Longrope(lists, original, [last(3), last(4), last(5)])
            }
            _ => Scaling::None,
        }
    }
}

/// Frequencies of `rope` in one pool.
pub(crate) struct Frequencies<'a, 'k> {
    /// Where expressions go.
    pub lower: &'a mut Lower<'k>,
    /// Index of the pair.
    pub d: ExprId,
    /// Rotated dims.
    pub n: i64,
    /// Keys: the length at which LongRoPE switches.
    pub seq_k: ExprId,
}

type Result<T> = std::result::Result<T, LowerError>;

impl Frequencies<'_, '_> {
    fn pool(&mut self) -> &mut Pool {
        &mut self.lower.pool
    }

    fn float(&mut self, x: f64) -> ExprId {
        self.pool().float(x)
    }

    fn op(&mut self, op: BinaryOp, a: ExprId, b: ExprId) -> ExprId {
        self.pool().binary(op, a, b)
    }

    fn ln(&mut self, x: ExprId) -> ExprId {
        self.pool().unary(UnaryOp::Log, x)
    }

    /// The inverse frequency of pair d, and the factor of cos and sin (none for 1).
    pub fn of(&mut self, theta: &Expr, scaling: &Scaling) -> Result<(ExprId, Option<ExprId>)> {
        let theta = self.lower.expr(theta)?;
        Ok(match scaling {
            Scaling::None => (self.plain(theta), None),
            Scaling::Pi(f) => {
                let f = self.lower.expr(f)?;
                let plain = self.plain(theta);
                (self.op(BinaryOp::Div, plain, f), None)
            }
            Scaling::Ntk(f) => {
                let f = self.lower.expr(f)?;
                let base = self.grown(theta, f);
                (self.plain(base), None)
            }
            Scaling::DynNtk([f, original, len]) => {
                let [f, original, len] =
                    [self.lower.expr(f)?, self.lower.expr(original)?, self.lower.expr(len)?];
                let longest = self.op(BinaryOp::Max, len, original);
                let ratio = self.op(BinaryOp::Div, longest, original);
                let (one, scaled) = (self.float(1.0), self.op(BinaryOp::Mul, f, ratio));
                let less = self.op(BinaryOp::Sub, f, one);
                let growth = self.op(BinaryOp::Sub, scaled, less);
                let base = self.grown(theta, growth);
                (self.plain(base), None)
            }
            Scaling::Yarn(args, optional, truncate) => self.yarn(theta, args, optional, truncate.as_ref())?,
            Scaling::Llama3(args) => (self.llama3(theta, args)?, None),
            Scaling::Longrope(lists, original, optional) => {
                self.longrope(theta, lists, original, optional)?
            }
        })
    }

    /// `theta ^ (-2 d / n)`
    fn plain(&mut self, theta: ExprId) -> ExprId {
        let (n, two) = (self.n as f64, self.float(-2.0));
        let d = self.d;
        let d = self.pool().unary(UnaryOp::ToFloat, d);
        let n = self.float(n);
        let top = self.op(BinaryOp::Mul, two, d);
        let exponent = self.op(BinaryOp::Div, top, n);
        self.op(BinaryOp::Pow, theta, exponent)
    }

    /// `theta * f ^ (n / (n - 2))`; with one pair, whose frequency is 1, the base does not matter.
    fn grown(&mut self, theta: ExprId, f: ExprId) -> ExprId {
        if self.n <= 2 {
            return theta;
        }
        let exponent = self.n as f64 / (self.n - 2) as f64;
        let exponent = self.float(exponent);
        let growth = self.op(BinaryOp::Pow, f, exponent);
        self.op(BinaryOp::Mul, theta, growth)
    }

    /// The pair that turns `rotations` times within the original length.
    fn yarn_pair(&mut self, theta: ExprId, original: ExprId, rotations: ExprId) -> ExprId {
        let (two_pi, two) = (self.float(2.0 * std::f64::consts::PI), self.float(2.0));
        let n = self.n as f64;
        let n = self.float(n);
        let turns = self.op(BinaryOp::Mul, two_pi, rotations);
        let ratio = self.op(BinaryOp::Div, original, turns);
        let (top, bottom) = (self.ln(ratio), self.ln(theta));
        let top = self.op(BinaryOp::Mul, n, top);
        let bottom = self.op(BinaryOp::Mul, two, bottom);
        self.op(BinaryOp::Div, top, bottom)
    }

    fn yarn(
        &mut self,
        theta: ExprId,
        [factor, original]: &[Expr; 2],
        [fast, slow, attn]: &[Option<Expr>; 3],
        truncate: Option<&Expr>,
    ) -> Result<(ExprId, Option<ExprId>)> {
        let (factor, original) = (self.lower.expr(factor)?, self.lower.expr(original)?);
        let or = |this: &mut Self, e: &Option<Expr>, default: f64| match e {
            Some(e) => this.lower.expr(e),
            None => Ok(this.float(default)),
        };
        let (fast, slow) = (or(self, fast, 32.0)?, or(self, slow, 1.0)?);
        let (low, high) = (self.yarn_pair(theta, original, fast), self.yarn_pair(theta, original, slow));
        let whole = match truncate {
            Some(e) => self.lower.expr(e)?,
            None => self.pool().bool(true),
        };
        let (floor, ceil) = (self.pool().unary(UnaryOp::Floor, low), self.pool().unary(UnaryOp::Ceil, high));
        let low = self.pool().select(whole, floor, low);
        let high = self.pool().select(whole, ceil, high);
        let last = self.n as f64 - 1.0;
        let (zero, one, last, least) = (self.float(0.0), self.float(1.0), self.float(last), self.float(1e-3));
        let low = self.op(BinaryOp::Max, low, zero);
        let high = self.op(BinaryOp::Min, high, last);
        let span = self.op(BinaryOp::Sub, high, low);
        let flat = self.op(BinaryOp::Eq, span, zero);
        let span = self.pool().select(flat, least, span);
        let d = self.d;
        let d = self.pool().unary(UnaryOp::ToFloat, d);
        let above = self.op(BinaryOp::Sub, d, low);
        let ramp = self.op(BinaryOp::Div, above, span);
        let ramp = self.op(BinaryOp::Max, ramp, zero);
        let ramp = self.op(BinaryOp::Min, ramp, one);
        let plain = self.plain(theta);
        let slowed = self.op(BinaryOp::Div, plain, factor);
        let freq = self.mix(plain, slowed, ramp);
        let attn = match attn {
            Some(e) => self.lower.expr(e)?,
            None => {
                let (tenth, log) = (self.float(0.1), self.ln(factor));
                let grown = self.op(BinaryOp::Mul, tenth, log);
                let grown = self.op(BinaryOp::Add, grown, one);
                let longer = self.op(BinaryOp::Lt, one, factor);
                self.pool().select(longer, grown, one)
            }
        };
        Ok((freq, Some(attn)))
    }

    /// `a (1 - w) + b w`
    fn mix(&mut self, a: ExprId, b: ExprId, w: ExprId) -> ExprId {
        let one = self.float(1.0);
        let rest = self.op(BinaryOp::Sub, one, w);
        let (a, b) = (self.op(BinaryOp::Mul, a, rest), self.op(BinaryOp::Mul, b, w));
        self.op(BinaryOp::Add, a, b)
    }

    fn llama3(&mut self, theta: ExprId, args: &[Expr; 4]) -> Result<ExprId> {
        let [factor, low, high, original] = args;
        let (factor, low) = (self.lower.expr(factor)?, self.lower.expr(low)?);
        let (high, original) = (self.lower.expr(high)?, self.lower.expr(original)?);
        let plain = self.plain(theta);
        let slowed = self.op(BinaryOp::Div, plain, factor);
        let two_pi = self.float(2.0 * std::f64::consts::PI);
        let wavelength = self.op(BinaryOp::Div, two_pi, plain);
        let (short, long) = (self.op(BinaryOp::Div, original, high), self.op(BinaryOp::Div, original, low));
        let (fast, slow) =
            (self.op(BinaryOp::Lt, wavelength, short), self.op(BinaryOp::Lt, long, wavelength));
        let turns = self.op(BinaryOp::Div, original, wavelength);
        let (above, band) = (self.op(BinaryOp::Sub, turns, low), self.op(BinaryOp::Sub, high, low));
        let smooth = self.op(BinaryOp::Div, above, band);
        let mixed = self.mix(slowed, plain, smooth);
        let inner = self.pool().select(slow, slowed, mixed);
        Ok(self.pool().select(fast, plain, inner))
    }

    fn longrope(
        &mut self,
        theta: ExprId,
        [short, long]: &[Vec<Expr>; 2],
        original: &Expr,
        [len, factor, attn]: &[Option<Expr>; 3],
    ) -> Result<(ExprId, Option<ExprId>)> {
        let at = original.span;
        let original = self.lower.expr(original)?;
        let len = match len {
            Some(e) => self.lower.expr(e)?,
            None => {
                let n = self.seq_k;
                self.pool().unary(UnaryOp::ToFloat, n)
            }
        };
        let (short, long) = (self.listed(short, at)?, self.listed(long, at)?);
        let within = self.op(BinaryOp::Le, len, original);
        let stretch = self.pool().select(within, short, long);
        let plain = self.plain(theta);
        let plain = self.pool().unary(UnaryOp::Round32, plain);
        let freq = self.op(BinaryOp::Div, plain, stretch);
        let one = self.float(1.0);
        let attn = match (attn, factor) {
            (Some(e), _) => self.lower.expr(e)?,
            (None, factor) => {
                let factor = match factor {
                    Some(e) => self.lower.expr(e)?,
                    None => self.op(BinaryOp::Div, len, original),
                };
                let factor = self.op(BinaryOp::Max, factor, one);
                let (top, bottom) = (self.ln(factor), self.ln(original));
                let share = self.op(BinaryOp::Div, top, bottom);
                let sum = self.op(BinaryOp::Add, one, share);
                self.pool().unary(UnaryOp::Sqrt, sum)
            }
        };
        Ok((freq, Some(attn)))
    }

    /// The d-th number of a list, or element d of a row.
    fn listed(&mut self, list: &[Expr], at: Span) -> Result<ExprId> {
        let d = self.d;
        if let [row] = list
            && matches!(row.ty, Type::Row(_))
        {
            return self.lower.element(row, d);
        }
        if list.len() as i64 != self.n / 2 {
            let span = list.first().map_or(at, |e| e.span);
            let message = format!("{} stretches for {} pairs; give one for each", list.len(), self.n / 2);
            return Err(LowerError { span, message });
        }
        let mut value = self.float(1.0);
        for (k, e) in list.iter().enumerate().rev() {
            let x = self.lower.expr(e)?;
            let at = self.pool().int(k as i64);
            let here = self.op(BinaryOp::Eq, d, at);
            value = self.pool().select(here, x, value);
        }
        Ok(value)
    }
}
