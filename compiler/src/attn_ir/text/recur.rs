//! Writes a [`Recurrence`] as text: states, nodes, updates and reads, a line each.

use std::fmt::Write;

use crate::attn_ir::Kernel;
use crate::attn_ir::recur::{Init, RecurOp, Recurrence, Shape};
use crate::expr::{ExprId, TensorId, VarId};

/// The whole recurrence.
pub fn print(k: &Kernel, r: &Recurrence) -> String {
    let tensor = |id: TensorId| k.tensor(id).name.clone();
    let expr = |id: ExprId| crate::expr::print::print(&k.pool, id, &tensor);
    let var = |v: VarId| k.pool.var_info(v).name.clone();
    let extent = |v: VarId, n: String| format!("{} < {n}", var(v));
    let mut axes: Vec<String> = Vec::new();
    axes.extend(r.batch.map(|n| extent(r.vars.b, expr(n))));
    axes.extend(r.heads.map(|n| extent(r.vars.h, n.to_string())));
    axes.push(extent(r.vars.t, expr(r.steps)));
    let mut out = format!("recur {}[{}] {{\n", k.name, axes.join(", "));
    let mut line = |text: String| {
        let _ = writeln!(out, "  {text}");
    };
    for s in &r.states {
        let init = match s.init {
            Init::Number(e) => expr(e),
            Init::Tensor(id) => tensor(id),
        };
        let last = s.last.map_or_else(String::new, |id| format!(" -> {}", tensor(id)));
        line(format!("state {}: {} = {init}{last}", s.name, shape(s.shape)));
    }
    for (n, node) in r.nodes.iter().enumerate() {
        let text = match &node.op {
            RecurOp::Scalar(e) => expr(*e),
            RecurOp::Row(e) => format!("row {}: {}", var(r.vars.x), expr(*e)),
            RecurOp::State(s) => format!("state {}", r.states[*s].name),
            RecurOp::Outer(x, y) => format!("outer %{} %{}", x.0, y.0),
            RecurOp::VecMat(x, m) => format!("%{} @ %{}", x.0, m.0),
            RecurOp::Dot(x, y) => format!("dot %{} %{}", x.0, y.0),
            RecurOp::Map { args, value } => {
                let args: Vec<String> = args.iter().map(|(v, n)| format!("{} = %{}", var(*v), n.0)).collect();
                format!("map {}: {}", args.join(", "), expr(*value))
            }
        };
        line(format!("%{n}: {} = {text}", shape(node.shape)));
    }
    for (s, value) in &r.updates {
        line(format!("update {} = %{}", r.states[*s].name, value.0));
    }
    for read in &r.reads {
        line(format!("read {} = %{}", tensor(read.rows.tensor), read.node.0));
    }
    out.push_str("}\n");
    out
}

fn shape(s: Shape) -> String {
    match s {
        Shape::Scalar => "number".into(),
        Shape::Row(n) => format!("[{n}]"),
        Shape::Mat(r, c) => format!("[{r}, {c}]"),
    }
}
