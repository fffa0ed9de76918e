//! `dropout`: weights dropped at random.
//!
//! Comes in: the clause. Goes out: its probability, seed and offset, and in a plan the IR's [`Dropout`]. What holds:
//! each is one number for the launch, the probability in 0 to below 1 where the plan knows it. Not here: words.

use crate::attn_ir::Dropout;
use crate::diagnostic::{Code, Diagnostic};
use crate::expr::eval::Value;
use crate::expr::{BinaryOp, UnaryOp};
use crate::syntax::ast::ClauseKind;

use super::clauses::Clauses;
use super::elab::Elab;
use super::hir::{Expr, Uses};
use super::lower::{Lower, LowerError};

impl Elab<'_> {
    /// p, seed and offset of the block's `dropout`.
    pub fn dropout(&mut self, clauses: &Clauses<'_>) -> Option<[Expr; 3]> {
        let (args, span) = clauses.all.iter().find_map(|c| match &c.kind {
            ClauseKind::Dropout(args) => Some((args, c.span)),
            _ => None,
        })?;
        let bound = self.bind("dropout", &["p", "seed", "offset"], 3, args, span)?;
        let (p, seed, offset) = (bound[0]?, bound[1]?, bound[2]?);
        let x = self.expr(p);
        let share = self.widen(&x);
        let outside = matches!(share.value, Some(Value::Float(v)) if !(0.0..1.0).contains(&v));
        let varies = Uses::INDEX.or(Uses::FLOAT_LOAD).or(Uses::INT_LOAD);
        if outside || share.uses.any(varies) {
            let d = Diagnostic::error(
                Code::BadDropout,
                p.span,
                "the probability of dropping is one number from 0 to below 1",
            )
            .label("not such a number")
            .help("for instance `dropout (0.1, seed, offset)`");
            self.report.push(d);
            return None;
        }
        let mut ints = Vec::new();
        for (e, what) in [(seed, "the seed"), (offset, "the offset")] {
            let x = self.expr(e);
            let x = self.want_int(&x, what);
            if x.uses.any(varies) {
                let d =
                    Diagnostic::error(Code::BadDropout, e.span, format!("{what} is one int for the launch"))
                        .label("depends on the position, or on a tensor")
                        .help("make it a run-time parameter");
                self.report.push(d);
                return None;
            }
            ints.push(x);
        }
        let offset = ints.pop()?;
        let all = [share, ints.pop()?, offset];
        all.iter().all(|x| !x.is_error()).then_some(all)
    }
}

/// The IR's form: the threshold is `round(p * 2^32)`, what is kept grows by `1 / (1 - p)`.
pub(crate) fn lowered(lower: &mut Lower<'_>, [p, seed, offset]: &[Expr; 3]) -> Result<Dropout, LowerError> {
    let (span, share) = (p.span, lower.expr(p)?);
    let (seed, offset) = (lower.expr(seed)?, lower.expr(offset)?);
    let pool = &mut lower.pool;
    if let Some(Value::Float(v)) = pool.as_const(share)
        && !(0.0..1.0).contains(&v)
    {
        let message = format!("the probability of dropping is {v}; it lies in 0 to below 1");
        return Err(LowerError { span, message });
    }
    let (words, half, one) = (pool.float(4_294_967_296.0), pool.float(0.5), pool.float(1.0));
    let scaled = pool.binary(BinaryOp::Mul, share, words);
    let scaled = pool.binary(BinaryOp::Add, scaled, half);
    let whole = pool.unary(UnaryOp::Floor, scaled);
    let threshold = pool.unary(UnaryOp::ToInt, whole);
    let kept = pool.binary(BinaryOp::Sub, one, share);
    let keep_scale = pool.binary(BinaryOp::Div, one, kept);
    Ok(Dropout { p: share, threshold, keep_scale, seed, offset })
}
