//! Operands: names, literals and addresses to rows.
//!
//! Comes in: an [`Arg`]. Goes out: a row, a predicate, an [`Addr`]. What holds: immediates, special registers and addresses
//! of variables have rows of their own, one for each value.

use super::{Build, Res, Sym};
use crate::ast::Arg;
use crate::isa::*;

impl Build {
    /// A row that holds `value` in every lane.
    pub fn constant(&mut self, value: u64) -> Row {
        if let Some(row) = self.consts.get(&value) {
            return *row;
        }
        let row = self.row();
        self.k.consts.push((row, value));
        self.consts.insert(value, row);
        row
    }

    fn special(&mut self, what: Special) -> Row {
        if let Some(row) = self.specials.get(&what) {
            return *row;
        }
        let row = self.row();
        self.k.specials.push((row, what));
        self.specials.insert(what, row);
        row
    }

    fn table_row(&mut self, table: usize, off: i64) -> Row {
        if let Some(row) = self.table_rows.get(&(table, off)) {
            return *row;
        }
        let row = self.row();
        self.k.table_rows.push((row, table, off));
        self.table_rows.insert((table, off), row);
        row
    }

    /// An operand that is read as a value of `ty`.
    pub fn src(&mut self, arg: &Arg, ty: Ty) -> Res<Row> {
        match arg {
            Arg::Name(name) => self.named(name, 0),
            Arg::Sum(name, off) => self.named(name, *off),
            Arg::Int(_) | Arg::F32(_) | Arg::F64(_) => {
                let bits = immediate(arg, ty)?;
                Ok(self.constant(bits))
            }
            _ => Err("expected a register or an immediate".into()),
        }
    }

    fn named(&mut self, name: &str, off: i64) -> Res<Row> {
        match self.lookup(name) {
            Some(Sym::Reg { row, .. }) if off == 0 => Ok(row),
            Some(Sym::Var { addr, .. }) => Ok(self.constant(addr.wrapping_add_signed(off))),
            Some(Sym::Table(table)) => Ok(self.table_row(table, off)),
            Some(Sym::Pred(_)) => Err(format!("`{name}` is a predicate")),
            Some(_) => Err(format!("`{name}` with an offset is no operand")),
            None => match special_of(name) {
                Some(what) => Ok(self.special(what)),
                None => Err(format!("`{name}` is not declared")),
            },
        }
    }

    /// A destination register and its bits.
    pub fn dst_bits(&mut self, arg: &Arg) -> Res<(Row, u32)> {
        match arg {
            Arg::Name(name) => match self.lookup(name) {
                Some(Sym::Reg { row, bits }) => Ok((row, bits)),
                _ => Err(format!("`{name}` is not a register that can be written")),
            },
            Arg::Sink => {
                if self.sink.is_none() {
                    self.sink = Some(self.row());
                }
                Ok((self.sink.expect("just made"), 64))
            }
            _ => Err("expected a register to write".into()),
        }
    }

    pub fn dst(&mut self, arg: &Arg) -> Res<Row> {
        Ok(self.dst_bits(arg)?.0)
    }

    /// A predicate to write.
    pub fn pdst(&mut self, arg: &Arg) -> Res<PRow> {
        match arg {
            Arg::Name(name) => match self.lookup(name) {
                Some(Sym::Pred(row)) => Ok(row),
                _ => Err(format!("`{name}` is not a predicate")),
            },
            Arg::Sink => {
                if self.psink.is_none() {
                    self.k.preds += 1;
                    self.psink = Some(self.k.preds - 1);
                }
                Ok(self.psink.expect("just made"))
            }
            _ => Err("expected a predicate".into()),
        }
    }

    /// A predicate to read.
    pub fn psrc(&mut self, arg: &Arg) -> Res<PSrc> {
        match arg {
            Arg::Name(name) => match self.lookup(name) {
                Some(Sym::Pred(row)) => Ok(PSrc { row, negated: false }),
                _ => Err(format!("`{name}` is not a predicate")),
            },
            Arg::Not(inner) => {
                let p = self.psrc(inner)?;
                Ok(PSrc { negated: !p.negated, ..p })
            }
            Arg::Int(0) => Ok(PSrc { row: P_FALSE, negated: false }),
            Arg::Int(_) => Ok(PSrc { row: P_TRUE, negated: false }),
            _ => Err("expected a predicate".into()),
        }
    }

    /// Whether an operand is a predicate register.
    pub fn is_pred(&self, arg: &Arg) -> bool {
        match arg {
            Arg::Name(name) => matches!(self.lookup(name), Some(Sym::Pred(_))),
            Arg::Not(_) => true,
            _ => false,
        }
    }

    /// An address in `space`.
    pub fn addr(&mut self, arg: &Arg, space: Space) -> Res<Addr> {
        match arg {
            Arg::Addr(base, off) | Arg::Tensor(base, off, _) => self.place(base, *off, space),
            _ => Err("expected an address in brackets".into()),
        }
    }

    fn place(&mut self, base: &Arg, off: i64, space: Space) -> Res<Addr> {
        let default = if space == Space::Shared { 32 } else { 64 };
        let (base, bits) = match base {
            Arg::Name(name) => match self.lookup(name) {
                Some(Sym::Reg { row, bits }) => (row, bits),
                Some(Sym::Var { space: of, addr }) => {
                    if space != of && space != Space::Generic {
                        return Err(format!("`{name}` does not lie in this state space"));
                    }
                    let window = match (space, of) {
                        (Space::Generic, Space::Shared) => SHARED_WINDOW,
                        (Space::Generic, Space::Local) => LOCAL_WINDOW,
                        (Space::Generic, Space::Param) => PARAM_WINDOW,
                        _ => 0,
                    };
                    (self.constant(window + addr), 64)
                }
                Some(Sym::Table(table)) => (self.table_row(table, 0), 64),
                _ => return Err(format!("`{name}` is not declared")),
            },
            Arg::Int(v) => (self.constant(*v as u64), default),
            _ => return Err("expected a register, a variable or a number as address".into()),
        };
        Ok(Addr { space, base, off, bits })
    }

    /// A list of sources in braces, or one.
    pub fn srcs(&mut self, arg: &Arg, ty: Ty) -> Res<Vec<Row>> {
        match arg {
            Arg::Vector(list) => list.iter().map(|a| self.src(a, ty)).collect(),
            one => Ok(vec![self.src(one, ty)?]),
        }
    }

    /// A list of destinations in braces, or one.
    pub fn dsts(&mut self, arg: &Arg) -> Res<Vec<Row>> {
        match arg {
            Arg::Vector(list) => list.iter().map(|a| self.dst(a)).collect(),
            one => Ok(vec![self.dst(one)?]),
        }
    }

    /// A branch to a label.
    pub fn branch(&mut self, arg: &Arg) -> Res<Op> {
        match arg {
            Arg::Name(label) => {
                self.fixups.push((self.k.code.len(), self.cur, label.clone()));
                Ok(Op::Bra { target: 0 })
            }
            _ => Err("expected a label".into()),
        }
    }
}

/// The bits of a literal as a value of `ty`.
fn immediate(arg: &Arg, ty: Ty) -> Res<u64> {
    let float = !ty.integer();
    Ok(match (arg, ty) {
        (Arg::Int(v), _) if !float => (*v as u64) & ty.mask(),
        (Arg::Int(v), Ty::F16x2 | Ty::Bf16x2 | Ty::F16 | Ty::Bf16 | Ty::Tf32) => (*v as u64) & ty.mask(),
        (Arg::F32(v), Ty::F32 | Ty::B32 | Ty::Tf32) => u64::from(*v),
        (Arg::F32(v), Ty::F64) => f64::from(f32::from_bits(*v)).to_bits(),
        (Arg::F64(v), Ty::F64 | Ty::B64) => v.to_bits(),
        (Arg::F64(v), Ty::F32) => u64::from((*v as f32).to_bits()),
        _ => return Err("this literal is no value of the instruction's type".into()),
    })
}

fn special_of(name: &str) -> Option<Special> {
    use Special::*;
    let axis = |s: &str| match s {
        "x" => Some(0),
        "y" => Some(1),
        "z" => Some(2),
        _ => None,
    };
    if let Some((head, tail)) = name.split_once('.') {
        let axis = axis(tail)?;
        return Some(match head {
            "%tid" => Tid(axis),
            "%ntid" => Ntid(axis),
            "%ctaid" => Ctaid(axis),
            "%nctaid" => Nctaid(axis),
            // Clusters hold one block each.
            "%clusterid" => Ctaid(axis),
            "%nclusterid" => Nctaid(axis),
            "%cluster_ctaid" => Zero,
            "%cluster_nctaid" => One,
            _ => return None,
        });
    }
    Some(match name {
        "%laneid" => LaneId,
        "%warpid" => WarpId,
        "%nwarpid" => NWarpId,
        "%smid" => SmId,
        "%nsmid" => NSmId,
        "%gridid" => GridId,
        "%lanemask_eq" => LaneMaskEq,
        "%lanemask_le" => LaneMaskLe,
        "%lanemask_lt" => LaneMaskLt,
        "%lanemask_ge" => LaneMaskGe,
        "%lanemask_gt" => LaneMaskGt,
        "%dynamic_smem_size" => DynamicSmem,
        "%total_smem_size" => TotalSmem,
        "%cluster_ctarank" => Zero,
        "%cluster_nctarank" => One,
        _ => return None,
    })
}
