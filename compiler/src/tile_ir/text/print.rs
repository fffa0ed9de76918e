//! Writes a [`Program`] as text: a line for each declaration and statement, blocks indented by two spaces.
//!
//! Comes in: any program, well-formed or not. Goes out: text that [`super::parse`] reads.
//!
//! ```text
//! program scale2 {
//!   dim n: int
//!   input x: f32[n, 16]
//!   output y: f32[n, 16]
//!   require 0 < n: "n must be positive"
//!   launch main {
//!     grid t < n
//!     buffer a[1, 16]
//!     load_rows a <- x[t : r, 0 : x], rows = 1, d = 16
//!     map a[r < 1, c < 16], e = tile(a): 2.0 * e
//!     store_rows y[t : r, 0 : x] <- a, rows = 1, d = 16
//!   }
//! }
//! ```

use std::fmt::Write;

use crate::artifact::{DType, MathFn};
use crate::attn_ir::Fact;
use crate::expr::eval::Value;
use crate::expr::print::{float_text, ty_name};
use crate::expr::{ExprId, TensorId, VarId};
use crate::tile_ir::{
    Access, BufId, BufRows, FlatRef, Launch, Operand, PanelRef, Program, ReduceOp, Rest, RowsRef, ScalarArg,
    Span, Stmt, TensorDecl, TensorKind, WeightKind,
};

/// The whole program.
pub fn print(program: &Program) -> String {
    let p = Printer { program, launch: None };
    let mut out = format!("program {} {{\n", program.name);
    for dim in &program.dims {
        let _ = writeln!(out, "  dim {}", p.scalar(dim));
    }
    for param in &program.params {
        let _ = writeln!(out, "  param {}", p.scalar(param));
    }
    for tensor in &program.tensors {
        let _ = writeln!(out, "  {}", p.tensor_decl(tensor));
    }
    for require in &program.requires {
        let _ = writeln!(out, "  require {}: {}", p.expr(require.cond), quote(&require.message));
    }
    for launch in &program.launches {
        Printer { program, launch: Some(launch) }.launch(launch, &mut out);
    }
    out.push_str("}\n");
    out
}

/// One statement on one line, without its blocks: how errors name it.
pub fn stmt_head(program: &Program, launch: &Launch, stmt: &Stmt) -> String {
    Printer { program, launch: Some(launch) }.head(stmt)
}

/// A string literal with escapes for quotes, backslashes and line ends.
pub(crate) fn quote(text: &str) -> String {
    let escaped = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!("\"{escaped}\"")
}

/// A constant as IR text.
pub(crate) fn value_text(value: Value) -> String {
    match value {
        Value::Bool(x) => x.to_string(),
        Value::Int(x) => x.to_string(),
        Value::Float(x) => float_text(x),
    }
}

/// Names of the elementary functions in text.
pub(super) const MATH_FNS: [(&str, MathFn); 8] = [
    ("exp", MathFn::Exp),
    ("exp2", MathFn::Exp2),
    ("log", MathFn::Log),
    ("log2", MathFn::Log2),
    ("tanh", MathFn::Tanh),
    ("sigmoid", MathFn::Sigmoid),
    ("sin", MathFn::Sin),
    ("cos", MathFn::Cos),
];

/// Names of the weights in text.
pub(super) const WEIGHTS: [(&str, WeightKind); 3] =
    [("sigmoid", WeightKind::Sigmoid), ("relu", WeightKind::Relu), ("plain", WeightKind::Plain)];

/// Names of the reductions in text.
pub(super) const REDUCTIONS: [(&str, ReduceOp); 3] =
    [("max", ReduceOp::Max), ("sum", ReduceOp::Sum), ("max_abs", ReduceOp::MaxAbs)];

/// Names of the ways a map reads a buffer.
pub(super) const ACCESSES: [(&str, Access); 3] =
    [("tile", Access::Tile), ("row", Access::Row), ("col", Access::Col)];

fn name_of<T: PartialEq>(table: &[(&'static str, T)], x: &T) -> &'static str {
    table.iter().find(|(_, y)| y == x).map_or("?", |(name, _)| name)
}

struct Printer<'a> {
    program: &'a Program,
    launch: Option<&'a Launch>,
}

impl Printer<'_> {
    fn expr(&self, id: ExprId) -> String {
        crate::expr::print::print(&self.program.pool, id, &|t| self.tensor(t))
    }

    fn exprs(&self, ids: &[ExprId]) -> String {
        ids.iter().map(|&x| self.expr(x)).collect::<Vec<_>>().join(", ")
    }

    fn var(&self, var: VarId) -> &str {
        &self.program.pool.var_info(var).name
    }

    fn tensor(&self, id: TensorId) -> String {
        self.program
            .tensors
            .get(id.0 as usize)
            .map_or_else(|| format!("no_tensor_{}", id.0), |t| t.name.clone())
    }

    fn buf(&self, id: BufId) -> String {
        self.launch
            .and_then(|l| l.buffers.get(id.0 as usize))
            .map_or_else(|| format!("no_buffer_{}", id.0), |b| b.name.clone())
    }

    /// `name: type = default`, with the variable in parentheses where its printed name differs.
    fn scalar(&self, arg: &ScalarArg) -> String {
        let info = self.program.pool.var_info(arg.var);
        let alias = if info.name == arg.name { String::new() } else { format!("({})", info.name) };
        let default = arg.default.map_or_else(String::new, |v| format!(" = {}", value_text(v)));
        format!("{}{alias}: {}{default}", arg.name, ty_name(info.ty))
    }

    fn tensor_decl(&self, t: &TensorDecl) -> String {
        let kind = match &t.kind {
            TensorKind::Input => "input",
            TensorKind::Output => "output",
            TensorKind::Updated => "updated",
            TensorKind::Table { .. } => "table",
            TensorKind::Workspace => "workspace",
        };
        let mut out = format!("{kind} {}: {}[{}]", t.name, t.dtype, self.exprs(&t.shape));
        out.push_str(&layout_text(&t.layout));
        out.push_str(fact_text(t.fact));
        if let TensorKind::Table { vars, origin, value } = &t.kind {
            let vars: Vec<String> = vars
                .iter()
                .zip(origin)
                .map(|(&v, &o)| format!("{} from {}", self.var(v), self.expr(o)))
                .collect();
            let _ = write!(out, " ({}) = {}", vars.join(", "), self.expr(*value));
        }
        out
    }

    fn launch(&self, launch: &Launch, out: &mut String) {
        let _ = writeln!(out, "  launch {} {{", launch.name);
        let grid: Vec<String> =
            launch.grid.iter().map(|(v, n)| format!("{} < {}", self.var(*v), self.expr(*n))).collect();
        if !grid.is_empty() {
            let _ = writeln!(out, "    grid {}", grid.join(", "));
        }
        for b in &launch.buffers {
            let dtype = if b.dtype == DType::F32 { String::new() } else { format!(": {}", b.dtype) };
            let of =
                b.of.map_or_else(String::new, |of| format!(" of {}", launch.buffers[of.0 as usize].name));
            let _ = writeln!(out, "    buffer {}[{}, {}]{dtype}{of}", b.name, b.rows, b.cols);
        }
        self.block(&launch.body, 4, out);
        out.push_str("  }\n");
    }

    fn block(&self, body: &[Stmt], indent: usize, out: &mut String) {
        for stmt in body {
            let _ = writeln!(out, "{:indent$}{}", "", self.head(stmt));
            match stmt {
                Stmt::For { body, .. } => {
                    self.block(body, indent + 2, out);
                    let _ = writeln!(out, "{:indent$}}}", "");
                }
                Stmt::If { then, otherwise, .. } => {
                    self.block(then, indent + 2, out);
                    if !otherwise.is_empty() {
                        let _ = writeln!(out, "{:indent$}}} else {{", "");
                        self.block(otherwise, indent + 2, out);
                    }
                    let _ = writeln!(out, "{:indent$}}}", "");
                }
                _ => {}
            }
        }
    }

    /// One arm for each statement (tidy: long match).
    fn head(&self, stmt: &Stmt) -> String {
        let e = |x: &ExprId| self.expr(*x);
        let buf = |b: &BufId| self.buf(*b);
        let part = |b: &BufRows| match &b.first {
            Some(first) => format!("{} from {}", self.buf(b.buf), e(first)),
            None => self.buf(b.buf),
        };
        let span = |s: &Span| format!("{} in {}..{}", self.var(s.var), e(&s.lo), e(&s.hi));
        let scale_by =
            |b: &Option<BufId>| b.map_or_else(String::new, |b| format!(", row_scale = {}", self.buf(b)));
        match stmt {
            Stmt::Let { var, value } => format!("let {} = {}", self.var(*var), e(value)),
            Stmt::First { var, over, cond } => {
                format!("first {} over {}: {}", self.var(*var), span(over), e(cond))
            }
            Stmt::Any { var, over, cond } => {
                let over: Vec<String> = over.iter().map(span).collect();
                format!("any {} over {}: {}", self.var(*var), over.join(", "), e(cond))
            }
            Stmt::For { var, lo, hi, .. } => format!("for {} in {}..{} {{", self.var(*var), e(lo), e(hi)),
            Stmt::If { cond, .. } => format!("if {} {{", e(cond)),
            Stmt::View { view, row, col } => format!("view {} at {}, {}", buf(view), e(row), e(col)),
            Stmt::Fill { dst, value } => format!("fill {} = {}", buf(dst), float_text(*value)),
            Stmt::LoadRows { dst, src, rows, d } => {
                format!("load_rows {} <- {}, rows = {}, d = {}", part(dst), self.rows(src), e(rows), e(d))
            }
            Stmt::Round { dst, src, rows, cols } => {
                format!("round {} <- {}, rows = {}, cols = {}", buf(dst), buf(src), e(rows), e(cols))
            }
            Stmt::PackK { dst, src, n, d } => {
                format!("pack_k {} <- {}, n = {}, d = {d}", self.panel(dst), self.rows(src), e(n))
            }
            Stmt::PackV { dst, src, n, d, flag: (t, idx) } => {
                let flag = format!("{}[{}]", self.tensor(*t), self.exprs(idx));
                format!(
                    "pack_v {} <- {}, n = {}, d = {d}, flag = {flag}",
                    self.panel(dst),
                    self.rows(src),
                    e(n)
                )
            }
            Stmt::Gemm { c, a, rest, b, rows, k, n, row_scale, accumulate, skip_zero, next } => {
                let assign = if *accumulate { "+=" } else { "=" };
                let right = match b {
                    Operand::Panels(p) => self.panel(p),
                    Operand::Buffer(b) => buf(b),
                    Operand::Columns(src) => format!("columns({})", self.rows(src)),
                    Operand::Rows(src) => format!("rows({})", self.rows(src)),
                };
                let left = match rest {
                    Rest::None => buf(a),
                    Rest::Tile(rest) => format!("({} + {})", buf(a), buf(rest)),
                    Rest::Rounding => format!("unrounded({})", buf(a)),
                };
                let product = format!("{} {assign} {left} * {right}", buf(c));
                let sizes = format!("rows = {}, k = {}, n = {}", e(rows), e(k), e(n));
                let next =
                    next.as_ref().map_or_else(String::new, |rows| format!(", next = {}", self.rows(rows)));
                format!("gemm {product}, {sizes}{}, skip_zero = {}{next}", scale_by(row_scale), e(skip_zero))
            }
            Stmt::Map { dst, rows, cols, row, col, reads, value } => {
                let over = self.over((*row, *col), (*rows, *cols), reads);
                format!("map {}{over}: {}", buf(dst), e(value))
            }
            Stmt::StoreMap { dst, rows, cols, row, col, reads, value } => {
                let over = self.over((*row, *col), (*rows, *cols), reads);
                format!("store_map {} {over}: {}", self.rows(dst), e(value))
            }
            Stmt::PrefixSum { hi, lo, src, n } => {
                format!("prefix_sum {}, {} <- {}, n = {}", self.flat(hi), self.flat(lo), self.rows(src), e(n))
            }
            Stmt::TopK { indices, ranks, src, n, m, width } => {
                let ranks =
                    ranks.as_ref().map_or_else(String::new, |r| format!(", ranks = {}", self.flat(r)));
                let sizes = format!("n = {}, m = {}, width = {}", e(n), e(m), e(width));
                format!("top_k {} <- {}, {sizes}{ranks}", self.flat(indices), self.rows(src))
            }
            Stmt::Math { f, dst, rows, cols } => {
                let f = name_of(&MATH_FNS, f);
                format!("math {f} {}, rows = {}, cols = {}", buf(dst), e(rows), e(cols))
            }
            Stmt::SoftmaxStep { s, rows, cols, scale, row_max, row_sum, alpha, floor_unmasked } => {
                let tile =
                    format!("{}, rows = {}, cols = {}, scale = {}", buf(s), e(rows), e(cols), e(scale));
                let state =
                    format!("row_max = {}, row_sum = {}, alpha = {}", buf(row_max), buf(row_sum), buf(alpha));
                format!("softmax_step {tile}, {state}, floor_unmasked = {}", e(floor_unmasked))
            }
            Stmt::WeightStep { kind, s, rows, cols, scale, row_max, floor_unmasked } => {
                let tile =
                    format!("{}, rows = {}, cols = {}, scale = {}", buf(s), e(rows), e(cols), e(scale));
                let (kind, max) = (name_of(&WEIGHTS, kind), buf(row_max));
                format!("weight_step {kind} {tile}, row_max = {max}, floor_unmasked = {}", e(floor_unmasked))
            }
            Stmt::FinishSoftmax { rows, row_max, row_sum, sink, inv_sum, lse } => {
                let state =
                    format!("rows = {}, row_max = {}, row_sum = {}", e(rows), buf(row_max), buf(row_sum));
                format!(
                    "finish_softmax {state}, sink = {}, inv_sum = {}, lse = {}",
                    e(sink),
                    buf(inv_sum),
                    buf(lse)
                )
            }
            Stmt::Transpose { dst, src, rows, cols } => {
                format!("transpose {} <- {}, rows = {}, cols = {}", buf(dst), buf(src), e(rows), e(cols))
            }
            Stmt::Band { s, rows, cols, period, from, to } => format!(
                "band {}, rows = {}, cols = {}, period = {}, from = {}, from_step = {}, to = {}, to_step = {}",
                buf(s),
                e(rows),
                e(cols),
                e(period),
                e(&from.at),
                from.step,
                e(&to.at),
                to.step
            ),
            Stmt::Affine { dst, rows, cols, scale, factor, term, diagonal, keep_zero } => {
                let mut text = format!(
                    "affine {}, rows = {}, cols = {}, scale = {}",
                    buf(dst),
                    e(rows),
                    e(cols),
                    e(scale)
                );
                if let Some(factor) = factor {
                    text += &format!(", factor = {}", buf(factor));
                }
                if let Some(term) = term {
                    text += &format!(", {} = {}", if *diagonal { "diagonal" } else { "term" }, buf(term));
                }
                if *keep_zero {
                    text += ", keep_zero";
                }
                text
            }
            Stmt::ScanRows { dst, rows, cols, decay } => {
                let decay = decay.map_or_else(String::new, |v| format!(", decay = {}", self.buf(v)));
                format!("scan_rows {}, rows = {}, cols = {}{decay}", buf(dst), e(rows), e(cols))
            }
            Stmt::ReduceRows { dst, op, src, rows, cols } => {
                let (op, sizes) =
                    (name_of(&REDUCTIONS, op), format!("rows = {}, cols = {}", e(rows), e(cols)));
                format!("reduce_rows {op} {} <- {}, {sizes}", buf(dst), buf(src))
            }
            Stmt::KeepLargest { best, at, src, rows, cols, first, m } => {
                let sizes =
                    format!("rows = {}, cols = {}, first = {}, m = {}", e(rows), e(cols), e(first), e(m));
                format!("keep_largest {}, {} <- {}, {sizes}", buf(best), buf(at), buf(src))
            }
            Stmt::Mark { dst, at, rows, cols, first } => {
                let sizes = format!("rows = {}, cols = {}, first = {}", e(rows), e(cols), e(first));
                format!("mark {} <- {}, {sizes}", buf(dst), buf(at))
            }
            Stmt::Random { dst, rows, cols, row0, col0, stream, offset, seed, threshold, keep_scale } => {
                let place =
                    format!("rows = {}, cols = {}, row0 = {}, col0 = {}", e(rows), e(cols), e(row0), e(col0));
                let key = format!("stream = {}, offset = {}, seed = {}", e(stream), e(offset), e(seed));
                let keep = format!("threshold = {}, keep_scale = {}", e(threshold), e(keep_scale));
                format!("random {}, {place}, {key}, {keep}", buf(dst))
            }
            Stmt::StoreRows { dst, src, rows, d, row_scale } => {
                let copy = format!("{} <- {}, rows = {}, d = {}", self.rows(dst), part(src), e(rows), e(d));
                format!("store_rows {copy}{}", scale_by(row_scale))
            }
            Stmt::StoreVec { dst, src, rows } => {
                format!("store_vec {} <- {}, rows = {}", self.rows(dst), part(src), e(rows))
            }
        }
    }

    /// `q[b, h, row0 : r, 0 : x]`: rows run along the dim marked `r`, columns along `x`, both along `rx`.
    fn rows(&self, rows: &RowsRef) -> String {
        let index: Vec<String> = rows
            .index
            .iter()
            .enumerate()
            .map(|(d, &x)| {
                let mark = match (d == rows.row_dim, d == rows.col_dim) {
                    (true, true) => " : rx",
                    (true, false) => " : r",
                    (false, true) => " : x",
                    (false, false) => "",
                };
                format!("{}{mark}", self.expr(x))
            })
            .collect();
        format!("{}[{}]", self.tensor(rows.tensor), index.join(", "))
    }

    /// `[r < rows, c < cols], x = tile(b), ...`
    fn over(
        &self,
        (row, col): (VarId, VarId),
        (rows, cols): (ExprId, ExprId),
        reads: &[(VarId, BufId, Access)],
    ) -> String {
        let read = |(v, b, a): &(VarId, BufId, Access)| {
            format!(", {} = {}({})", self.var(*v), name_of(&ACCESSES, a), self.buf(*b))
        };
        let reads: String = reads.iter().map(read).collect();
        let (row, col) = (self.var(row), self.var(col));
        format!("[{row} < {}, {col} < {}]{reads}", self.expr(rows), self.expr(cols))
    }

    /// `flat(w, offset)`
    fn flat(&self, f: &FlatRef) -> String {
        format!("flat({}, {})", self.tensor(f.tensor), self.expr(f.offset))
    }

    fn panel(&self, p: &PanelRef) -> String {
        format!("panel({}, {}, {})", self.tensor(p.tensor), self.expr(p.offset), self.expr(p.panel_stride))
    }
}

/// ` layout [1, 0, 2]`, or nothing for the identity.
pub(crate) fn layout_text(layout: &[usize]) -> String {
    if layout.iter().enumerate().all(|(n, &d)| n == d) {
        return String::new();
    }
    let dims: Vec<String> = layout.iter().map(usize::to_string).collect();
    format!(" layout [{}]", dims.join(", "))
}

/// ` sorted`, ` monotone` or nothing.
pub(crate) fn fact_text(fact: Fact) -> &'static str {
    match fact {
        Fact::None => "",
        Fact::Sorted => " sorted",
        Fact::Monotone => " monotone",
    }
}
