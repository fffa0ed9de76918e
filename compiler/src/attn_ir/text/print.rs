//! Writes an [`Attention`] as text, a line for each declaration in a fixed order.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::OUTPUTS;
use crate::attn_ir::{
    Attention, Derive, Dim, Kernel, Origin, Param, Products, Rank, Rows, Step, Tensor, Weight,
    Write as RowWrite,
};
use crate::expr::print::ty_name;
use crate::expr::{ExprId, TensorId, VarId};
use crate::tile_ir::text::{fact_text, layout_text, value_text};

/// The whole attention.
pub fn print(a: &Attention) -> String {
    let p = Printer(a);
    let mut out = format!("attention {} {{\n", a.name);
    let mut line = |text: String| {
        let _ = writeln!(out, "  {text}");
    };
    line(p.vars());
    a.dims.iter().for_each(|d| line(p.dim(d)));
    a.params.iter().for_each(|x| line(p.param(x)));
    a.tensors.iter().for_each(|t| line(p.tensor_decl(t)));
    let index = [a.index.b, a.index.h, a.index.i, a.index.j, a.index.row].map(|v| p.var(v));
    line(format!("index {}", index.join(", ")));
    line(format!("batch {}", p.expr(a.batch)));
    line(format!("heads {}", a.n_heads));
    line(format!("kv_heads {}", a.n_kv_heads));
    line(format!("kv_head {}", p.expr(a.kv_head)));
    line(format!("seq_q {}", p.expr(a.seq_q)));
    line(format!("seq_k {}", p.expr(a.seq_k)));
    line(format!("offset {}", p.expr(a.offset)));
    for d in &a.dots {
        line(format!("dot {} = {} * {}", p.var(d.var), p.rows(d.x), p.rows(d.y)));
    }
    line(format!("score {}", p.expr(a.score)));
    line(format!("mask {}", p.expr(a.mask)));
    line(p.weight());
    if let Some(d) = a.dropout {
        let parts = [d.p, d.threshold, d.keep_scale, d.seed, d.offset].map(|x| p.expr(x));
        line(format!("dropout {}", parts.join(", ")));
    }
    line(format!("value {}", p.rows(a.value)));
    for o in &a.outputs {
        let kind = OUTPUTS.iter().find(|(_, k)| *k == o.kind).map_or("?", |(name, _)| name);
        line(format!("output {}: {} = {kind}", o.name, o.dtype));
    }
    if let Some(n) = a.tiles.tile_q {
        line(format!("tile_q {n}"));
    }
    if let Some(n) = a.tiles.tile_kv {
        line(format!("tile_kv {n}"));
    }
    match a.numerics.products {
        Products::ByType => {}
        Products::Exact => line("exact_dot".into()),
        Products::Tf32 => line("tf32_dot".into()),
    }
    if let Some(n) = a.numerics.split {
        line(format!("split {n}"));
    }
    if a.numerics.batch_invariant {
        line("batch_invariant".into());
    }
    out.push_str("}\n");
    out
}

/// A whole kernel: one attention alone, or every step in order.
pub fn print_kernel(k: &Kernel) -> String {
    if let [Step::Attend(a)] = &k.steps[..] {
        return print(a);
    }
    let mut out = String::new();
    let tensor = |id: TensorId| k.tensor(id).name.clone();
    for step in &k.steps {
        match step {
            Step::Derive(d) => out += &derive(k, d),
            Step::Accumulate(s) => {
                let name = |id: TensorId| &k.tensor(id).name;
                let _ = writeln!(out, "accumulate {}, {} = {}", name(s.hi), name(s.lo), name(s.source));
            }
            Step::Write(w) => out += &write(k, w),
            Step::Attend(a) => out += &print(a),
            Step::Recur(r) => out += &super::recur::print(k, r),
            Step::Top(t) => {
                let count = crate::expr::print::print(&k.pool, t.count, &tensor);
                let (indices, ranks) = (tensor(t.indices), tensor(t.ranks));
                let _ = writeln!(out, "top {indices}, {ranks} = {count} largest of {}", tensor(t.source));
            }
            Step::Count(c) => {
                let _ = writeln!(out, "count {} = entries of {}", tensor(c.out), tensor(c.lists));
            }
            Step::Rank(r) => out += &rank(k, r),
        }
    }
    out
}

/// `derive q_rotated: f32[b < B, s < S, x < 64] = ...`
fn derive(k: &Kernel, d: &Derive) -> String {
    let t = k.tensor(d.out);
    let tensor = |id: TensorId| k.tensor(id).name.clone();
    let expr = |id: ExprId| crate::expr::print::print(&k.pool, id, &tensor);
    let axis = |(var, n): (VarId, ExprId)| format!("{} < {}", k.pool.var_info(var).name, expr(n));
    let dims: Vec<String> = d.index.iter().copied().zip(t.shape.iter().copied()).map(axis).collect();
    let sum: Vec<String> = d.sum.iter().copied().map(axis).collect();
    let sum = if sum.is_empty() { String::new() } else { format!("sum ({}) ", sum.join(", ")) };
    let at = if d.at_bind { " at_bind" } else { "" };
    format!("derive {}: {}[{}]{at} = {sum}{}\n", t.name, t.dtype, dims.join(", "), expr(d.value))
}

/// `rank chosen, by_tile = n blocks of 64 keys by max of ...`
fn rank(k: &Kernel, r: &Rank) -> String {
    let tensor = |id: TensorId| k.tensor(id).name.clone();
    let expr = |id: ExprId| crate::expr::print::print(&k.pool, id, &tensor);
    let dots: Vec<String> = r
        .dots
        .iter()
        .map(|d| format!("{} = {} * {}", k.pool.var_info(d.var).name, tensor(d.x.tensor), tensor(d.y.tensor)))
        .collect();
    format!(
        "rank {}, {} = {} blocks of {} keys by {} of {} where {}, keep {}; windows {} every {}; {} heads by {}; {}\n",
        tensor(r.out),
        tensor(r.any),
        expr(r.count),
        r.size,
        if r.sum { "sum" } else { "max" },
        expr(r.value),
        expr(r.seen),
        expr(r.keep),
        expr(r.windows),
        r.stride,
        r.groups,
        expr(r.group),
        dots.join(", "),
    )
}

/// `write k[place, x < 64] by (b < B, s < Sn) = value, quantised to 127 by k_scale[place]`
fn write(k: &Kernel, w: &RowWrite) -> String {
    let tensor = |id: TensorId| k.tensor(id).name.clone();
    let expr = |id: ExprId| crate::expr::print::print(&k.pool, id, &tensor);
    let name = |var: VarId| k.pool.var_info(var).name.clone();
    let list = |ids: &[ExprId]| ids.iter().map(|&id| expr(id)).collect::<Vec<_>>().join(", ");
    let rows: Vec<String> = w.rows.iter().map(|(var, n)| format!("{} < {}", name(*var), expr(*n))).collect();
    let scale = w.scale.as_ref().map_or_else(String::new, |s| {
        format!(", quantised to {} by {}[{}]", s.limit, tensor(s.out), list(&s.place))
    });
    let (x, width) = (name(w.feature.0), w.feature.1);
    let (out, place, value) = (tensor(w.out), list(&w.place), expr(w.value));
    format!("write {out}[{place}, {x} < {width}] by ({}) = {value}{scale}\n", rows.join(", "))
}

struct Printer<'a>(&'a Attention);

impl Printer<'_> {
    fn expr(&self, id: ExprId) -> String {
        crate::expr::print::print(&self.0.pool, id, &|t| self.tensor(t))
    }

    fn var(&self, var: VarId) -> String {
        self.0.pool.var_info(var).name.clone()
    }

    fn tensor(&self, id: TensorId) -> String {
        self.0.tensors.get(id.0 as usize).map_or_else(|| format!("no_tensor_{}", id.0), |t| t.name.clone())
    }

    /// Every expression, in the order of the text.
    fn roots(&self) -> Vec<ExprId> {
        let a = self.0;
        let sink = if let Weight::Softmax { sink } = a.weight { sink } else { None };
        let sizes = a.dims.iter().map(|d| d.size);
        let shapes = a.tensors.iter().flat_map(|t| t.shape.iter().copied());
        let rest = [a.batch, a.kv_head, a.seq_q, a.seq_k, a.offset, a.score, a.mask];
        let dropout = a.dropout.map(|d| [d.p, d.threshold, d.keep_scale, d.seed, d.offset]);
        sizes.chain(shapes).chain(rest).chain(sink).chain(dropout.into_iter().flatten()).collect()
    }

    fn vars(&self) -> String {
        let a = self.0;
        let mut vars: BTreeSet<VarId> = [a.index.b, a.index.h, a.index.i, a.index.j, a.index.row].into();
        vars.extend(a.params.iter().map(|p| p.var));
        vars.extend(a.dots.iter().map(|d| d.var));
        vars.extend(self.roots().into_iter().flat_map(|x| a.pool.free_vars(x)));
        let text = |v: &VarId| format!("{}: {}", self.var(*v), ty_name(a.pool.var_info(*v).ty));
        format!("vars {}", vars.iter().map(text).collect::<Vec<_>>().join(", "))
    }

    fn dim(&self, d: &Dim) -> String {
        let bounds = d.bounds.map_or_else(String::new, |(lo, hi)| format!(" in {lo}..{hi}"));
        format!("dim {} = {}{bounds}", d.name, self.expr(d.size))
    }

    fn param(&self, p: &Param) -> String {
        let name = self.var(p.var);
        let alias = if name == p.name { String::new() } else { format!("({name})") };
        let default = p.default.map_or_else(String::new, |v| format!(" = {}", value_text(v)));
        format!("param {}{alias}{default}", p.name)
    }

    fn tensor_decl(&self, t: &Tensor) -> String {
        let shape: Vec<String> = t.shape.iter().map(|&n| self.expr(n)).collect();
        let (layout, fact) = (layout_text(&t.layout), fact_text(t.fact));
        let origin = match t.origin {
            Origin::Host => "",
            Origin::Made => " made",
            Origin::Output => " output",
            Origin::Updated => " updated",
        };
        let rest = t.rest.map_or_else(String::new, |r| format!(" rest {}", self.0.tensor(r).name));
        format!("tensor {}: {}[{}]{layout}{fact}{origin}{rest}", t.name, t.dtype, shape.join(", "))
    }

    fn rows(&self, rows: Rows) -> String {
        let role = |name: &str, dim: Option<usize>| dim.map_or_else(String::new, |d| format!("{name} {d}, "));
        let (batch, head) = (role("batch", rows.batch), role("head", rows.head));
        format!("{}({batch}{head}seq {}, feature {})", self.tensor(rows.tensor), rows.seq, rows.feature)
    }

    fn weight(&self) -> String {
        match self.0.weight {
            Weight::Softmax { sink: None } => "weight softmax".into(),
            Weight::Softmax { sink: Some(sink) } => format!("weight softmax sink = {}", self.expr(sink)),
            Weight::Sigmoid => "weight sigmoid".into(),
            Weight::Relu => "weight relu".into(),
            Weight::Plain => "weight plain".into(),
        }
    }
}
