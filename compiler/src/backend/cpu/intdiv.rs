//! Floored division and remainder of 64-bit ints that never trap.
//!
//! Comes in: operands and what is known of them. Goes out: `x div y` and `x mod y` as `expr::eval` defines them:
//! quotients round down, `x div 0` is 0, `x mod 0` is x, `i64::MIN div -1` wraps. Cranelift's division traps
//! in the last three cases, so it only ever sees a divisor that excludes them.

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{InstBuilder, Value, types};

use crate::expr::range::Range;

use super::emitter::Emitter;

/// Which part of a division.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Quotient,
    Remainder,
}

impl Emitter<'_, '_> {
    /// `x div y` or `x mod y`, with the ranges of x and y.
    pub fn floored(&mut self, part: Part, (x, rx): (Value, Range), (y, ry): (Value, Range)) -> Value {
        let constant = (ry.lo == ry.hi).then_some(ry.lo);
        match constant {
            Some(0) => self.by_zero(part, x),
            Some(-1) => self.by_minus_one(part, x),
            Some(c) if c > 0 && c & (c - 1) == 0 => self.by_power_of_two(part, x, c),
            Some(_) if rx.lo >= 0 && ry.lo > 0 => self.natural(part, x, y, rx.hi.max(ry.hi)),
            Some(_) => self.rounded_down(part, x, y),
            None if rx.lo >= 0 && ry.lo > 0 => self.natural(part, x, y, rx.hi.max(ry.hi)),
            None if ry.lo > 0 => {
                let one = self.int(1);
                let y = self.b.ins().smax(y, one);
                self.rounded_down(part, x, y)
            }
            None => self.guarded(part, x, y),
        }
    }

    fn by_zero(&mut self, part: Part, x: Value) -> Value {
        if part == Part::Quotient { self.int(0) } else { x }
    }

    fn by_minus_one(&mut self, part: Part, x: Value) -> Value {
        if part == Part::Quotient { self.b.ins().ineg(x) } else { self.int(0) }
    }

    fn by_power_of_two(&mut self, part: Part, x: Value, c: i64) -> Value {
        match part {
            Part::Quotient => self.b.ins().sshr_imm_u(x, i64::from(c.trailing_zeros())),
            Part::Remainder => self.b.ins().band_imm_s(x, c - 1),
        }
    }

    /// Neither operand is negative and the divisor is not zero; 32-bit division is several times faster.
    /// The guard (there is one wherever the divisor is not constant) is for a divisor read from an empty table, which is
    /// nothing in particular.
    fn natural(&mut self, part: Part, x: Value, y: Value, largest: i64) -> Value {
        let narrow = largest <= i64::from(u32::MAX);
        let fit = |e: &mut Self, v| if narrow { e.b.ins().ireduce(types::I32, v) } else { v };
        let (x, y) = (fit(self, x), fit(self, y));
        let one = self.b.ins().iconst(if narrow { types::I32 } else { types::I64 }, 1);
        let y = self.b.ins().umax(y, one);
        let result = match part {
            Part::Quotient => self.b.ins().udiv(x, y),
            Part::Remainder => self.b.ins().urem(x, y),
        };
        if narrow { self.b.ins().uextend(types::I64, result) } else { result }
    }

    /// The divisor is neither 0 nor -1.
    fn rounded_down(&mut self, part: Part, x: Value, y: Value) -> Value {
        let quotient = self.b.ins().sdiv(x, y);
        let product = self.b.ins().imul(quotient, y);
        let rest = self.b.ins().isub(x, product);
        let inexact = self.b.ins().icmp_imm_s(IntCC::NotEqual, rest, 0);
        let signs = self.b.ins().bxor(rest, y);
        let opposite = self.b.ins().icmp_imm_s(IntCC::SignedLessThan, signs, 0);
        let down = self.b.ins().band(inexact, opposite);
        match part {
            Part::Quotient => {
                let less = self.b.ins().iadd_imm_s(quotient, -1);
                self.b.ins().select(down, less, quotient)
            }
            Part::Remainder => {
                let more = self.b.ins().iadd(rest, y);
                self.b.ins().select(down, more, rest)
            }
        }
    }

    fn guarded(&mut self, part: Part, x: Value, y: Value) -> Value {
        let shifted = self.b.ins().iadd_imm_s(y, 1);
        let special = self.b.ins().icmp_imm_u(IntCC::UnsignedLessThanOrEqual, shifted, 1);
        let one = self.int(1);
        let divisor = self.b.ins().select(special, one, y);
        let usual = self.rounded_down(part, x, divisor);
        let (by_zero, by_minus_one) = (self.by_zero(part, x), self.by_minus_one(part, x));
        let is_zero = self.b.ins().icmp_imm_s(IntCC::Equal, y, 0);
        let unusual = self.b.ins().select(is_zero, by_zero, by_minus_one);
        self.b.ins().select(special, unusual, usual)
    }
}
