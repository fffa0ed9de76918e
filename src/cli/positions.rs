//! What `explain` says of rotary positions and of derived tensors.
//!
//! Comes in: a plan and its scalars. Goes out: for each rotated tensor the base, the attention factor in force and how
//! far the rotation reaches by the scaling laws of its base (Liu et al. 2023, arXiv 2310.05209); for each derived
//! tensor how often it is made and read. What holds: numbers are those of the plan at these sizes and parameters; the
//! law is about the base alone. Not here: what a model makes of it.

use std::f64::consts::TAU;

use attn_compiler::attn_ir::Origin;
use attn_compiler::expr::eval::eval;
use attn_compiler::expr::{ExprId, Op, TensorId};
use attn_compiler::sema::TurnFact;
use attn_compiler::tile_ir::{Operand, Program, Stmt};
use serde_json::{Value as Json, json};

use super::data::Scalars;
use super::study::Study;
use super::table::short;
use super::ui::Failure;

/// One rotated tensor.
pub struct Turned {
    /// Its name.
    pub tensor: String,
    /// Features that turn.
    pub dims: i64,
    /// As written, and after a scaling of the base.
    pub base: (f64, f64),
    /// `none`, `yarn`...
    pub scaling: &'static str,
    /// Factor of cos and sin.
    pub factor: Option<f64>,
    /// Training length, and what follows from it.
    pub reach: Option<Reach>,
}

/// What the base reaches.
pub struct Reach {
    /// Tokens in training.
    pub trained: f64,
    /// Features whose period the training covered: the critical dimension.
    pub critical: i64,
    /// Tokens up to which the base extrapolates.
    pub tokens: f64,
}

/// A derived tensor.
pub struct Made {
    /// Its name.
    pub name: String,
    /// Filled when arguments are bound, not by a launch.
    pub at_bind: bool,
    /// Launches that read it.
    pub readers: Vec<String>,
}

/// The critical dimension of `dims` features at a base, and the tokens that another base reaches with it.
pub fn reach(dims: i64, base: f64, tuned: f64, trained: f64) -> Option<Reach> {
    let turns = trained / TAU;
    if !(turns > 1.0 && base > 1.0 && tuned > 1.0) {
        return None;
    }
    let critical = 2 * ((dims as f64 / 2.0) * turns.ln() / base.ln()).ceil() as i64;
    let critical = critical.clamp(0, dims);
    Some(Reach { trained, critical, tokens: TAU * tuned.powf(critical as f64 / dims as f64) })
}

/// Every rotary tensor; `trained` and `base` are the training's where the scaling does not say.
pub fn turned(study: &Study, trained: Option<f64>, base: Option<f64>) -> Result<Vec<Turned>, Failure> {
    let scalars = study.scalars()?;
    let value = |id: ExprId| number(study, &scalars, id);
    let mut out = Vec::new();
    for t in &study.plan.turns {
        let TurnFact { tensor, dims, theta, tuned, original, factor, scaling } = t;
        let written = value(*theta);
        let trained = original.map(value).or(trained);
        out.push(Turned {
            tensor: tensor.clone(),
            dims: *dims,
            base: (written, value(*tuned)),
            scaling,
            factor: factor.map(value),
            reach: trained.and_then(|n| reach(*dims, base.unwrap_or(written), value(*tuned), n)),
        });
    }
    Ok(out)
}

fn number(study: &Study, scalars: &Scalars, id: ExprId) -> f64 {
    match eval(&study.plan.kernel.pool, id, scalars) {
        attn_compiler::expr::eval::Value::Int(x) => x as f64,
        x => x.float(),
    }
}

/// Every derived tensor.
pub fn made(study: &Study) -> Vec<Made> {
    let (kernel, program) = (&study.plan.kernel, &study.plan.program);
    let made = kernel.tensors.iter().enumerate().filter(|(_, t)| t.origin == Origin::Made);
    let of = |(n, t): (usize, &attn_compiler::attn_ir::Tensor)| {
        let id = TensorId(n as u32);
        let table = matches!(program.tensors[n].kind, attn_compiler::tile_ir::TensorKind::Table { .. });
        let readers = program.launches.iter().filter(|l| reads(program, &l.body, id));
        Made { name: t.name.clone(), at_bind: table, readers: readers.map(|l| l.name.clone()).collect() }
    };
    made.map(of).collect()
}

fn reads(program: &Program, body: &[Stmt], id: TensorId) -> bool {
    let pool = &program.pool;
    body.iter().any(|stmt| {
        let source = match stmt {
            Stmt::LoadRows { src, .. }
            | Stmt::Gemm { b: Operand::Columns(src) | Operand::Rows(src), .. }
            | Stmt::PackK { src, .. }
            | Stmt::PackV { src, .. }
            | Stmt::PrefixSum { src, .. }
            | Stmt::TopK { src, .. } => src.tensor == id,
            Stmt::For { body, .. } => reads(program, body, id),
            Stmt::If { then, otherwise, .. } => reads(program, then, id) || reads(program, otherwise, id),
            _ => false,
        };
        let loads = |n: &ExprId| matches!(pool.op(*n), Op::Load(t, ..) if *t == id);
        source || pool.reachable(&stmt.exprs()).iter().any(loads)
    })
}

/// For people; empty where nothing is turned or derived.
pub fn text(turned: &[Turned], made: &[Made]) -> String {
    let mut out = String::new();
    if !turned.is_empty() {
        out += "Rotary positions\n";
    }
    for t in turned {
        out += &format!("  {}: {} features, base {}", t.tensor, t.dims, short(t.base.0));
        if t.base.1 != t.base.0 {
            out += &format!(", scaled to {}", short(t.base.1));
        }
        out += &format!(", scaling {}, attention factor {}\n", t.scaling, short(t.factor.unwrap_or(1.0)));
        out += &match &t.reach {
            Some(r) => format!(
                "    trained on {} tokens: {} of {} features have turned once (critical dimension); this base reaches {} \
                 tokens\n",
                short(r.trained),
                r.critical,
                t.dims,
                r.tokens.round()
            ),
            None => {
                "    give --train-length for the critical dimension and how far this base reaches\n".into()
            }
        };
    }
    if !made.is_empty() {
        out += "Derived tensors\n";
    }
    for m in made {
        let when = if m.at_bind { "made at bind, kept while sizes stay" } else { "made once in each run" };
        let n = m.readers.len();
        let times = if n == 1 { "launch".into() } else { "launches".to_string() };
        out += &format!("  {}: {when}, read by {n} {times}: {}\n", m.name, m.readers.join(", "));
    }
    out
}

/// For machines.
pub fn json(turned: &[Turned], made: &[Made]) -> (Json, Json) {
    let reach =
        |r: &Reach| json!({ "trained": r.trained, "critical_dimension": r.critical, "tokens": r.tokens });
    let turn = |t: &Turned| json!({ "tensor": t.tensor, "dims": t.dims, "base": t.base.0, "scaled_base": t.base.1, "scaling": t.scaling, "attention_factor": t.factor.unwrap_or(1.0), "reach": t.reach.as_ref().map(reach) });
    let make = |m: &Made| json!({ "name": m.name, "at_bind": m.at_bind, "read_by": m.readers });
    (turned.iter().map(turn).collect(), made.iter().map(make).collect())
}

#[cfg(test)]
mod tests {
    use super::reach;

    /// Numbers of the paper for LLaMA 2: 92 critical dims of 128; a base of 10^6 reaches 129027 tokens.
    #[test]
    fn llama_2_by_the_scaling_laws() {
        let r = reach(128, 1e4, 1e6, 4096.0).unwrap();
        assert_eq!((r.critical, r.tokens.round()), (92, 129_027.0));
        assert_eq!(reach(128, 1e4, 1e4, 4096.0).unwrap().tokens.round(), 4712.0);
        assert!(reach(128, 1e4, 1e4, 4.0).is_none());
    }
}
