//! One function: that of a launch with its prologue and its body, or that of a loop of one.
//!
//! Comes in: a launch and an empty CLIF function. Goes out: the function filled. The prologue splits `task`
//! into grid coordinates, the last one fastest; a task number of a grid with an empty side (which the runtime
//! never starts) gives zeros instead of a trap.

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{AbiParam, Function, InstBuilder, Signature, UserFuncName, Value, types};
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};

use crate::expr::ExprId;
use crate::expr::range::Range;

use super::BackendError;
use super::emitter::{Emitter, Result, Setting};
use super::outline::Part;

/// Builds the function of a launch in `func`, which is empty; gives its loops where they are functions of their own.
pub(super) fn build(
    func: &mut Function,
    context: &mut FunctionBuilderContext,
    setting: Setting<'_>,
    apart: bool,
) -> Result<Vec<Part>> {
    let mut signature = Signature::new(setting.isa.conv);
    signature.params.extend([types::I64; 3].map(AbiParam::new));
    let mut parts = Vec::new();
    define(func, context, (setting, signature), |e, params| {
        let &[task] = params else {
            return Err(BackendError::internal("launch", "a launch is given a task", ""));
        };
        e.parts = apart.then(Vec::new);
        e.body(task)?;
        parts = e.parts.take().unwrap_or_default();
        Ok(vec![])
    })?;
    Ok(parts)
}

/// Builds the function of a part of a launch in `func`, which is empty.
pub(super) fn build_part(
    func: &mut Function,
    context: &mut FunctionBuilderContext,
    setting: Setting<'_>,
    part: &Part,
) -> Result<()> {
    let signature = part.signature(setting.isa.conv);
    define(func, context, (setting, signature), |e, params| e.part_body(part, params))
}

/// Builds a function whose first parameters are the argument block and the scratch memory: `body` is given the others,
/// and gives what the function does.
fn define(
    func: &mut Function,
    context: &mut FunctionBuilderContext,
    (setting, signature): (Setting<'_>, Signature),
    body: impl FnOnce(&mut Emitter, &[Value]) -> Result<Vec<Value>>,
) -> Result<()> {
    func.signature = signature;
    func.name = UserFuncName::testcase(&setting.launch.name);
    let mut b = FunctionBuilder::new(func, context);
    let entry = b.create_block();
    b.append_block_params_for_function_params(entry);
    b.switch_to_block(entry);
    let params = b.block_params(entry).to_vec();
    let [args, scratch] = [params[0], params[1]];
    let mut e = Emitter::new(b, setting, (args, scratch));
    let built = body(&mut e, &params[2..]);
    if let Ok(results) = &built {
        e.b.ins().return_(results);
    }
    e.b.seal_all_blocks();
    match &built {
        Ok(_) => e.b.finalize(setting.isa.target.frontend_config()),
        // What was built so far is dropped with the builder's context, which wants to be emptied.
        Err(_) => *context = FunctionBuilderContext::new(),
    }
    built.map(drop)
}

impl Emitter<'_, '_> {
    fn body(&mut self, task: Value) -> Result<()> {
        let launch = self.launch;
        let mut rest = task;
        for (n, (var, extent)) in launch.grid.iter().enumerate().rev() {
            let limit = Range { lo: 0, hi: (self.range(*extent).hi - 1).max(0) };
            let coordinate = if n == 0 { rest } else { self.split_off(&mut rest, *extent)? };
            self.bind(*var, coordinate, limit);
            self.note_below(*var, *extent);
            self.note_side(*extent);
        }
        self.block(&launch.body)
    }

    /// `rest mod extent`, leaving `rest div extent`.
    fn split_off(&mut self, rest: &mut Value, extent: ExprId) -> Result<Value> {
        if self.pool().as_int(extent) == Some(1) {
            return Ok(self.int(0));
        }
        let mut size = self.scalar(extent)?;
        if self.range(extent).lo < 1 {
            let one = self.int(1);
            let some = self.b.ins().icmp_imm_s(IntCC::SignedGreaterThan, size, 0);
            size = self.b.ins().select(some, size, one);
        }
        let quotient = self.b.ins().udiv(*rest, size);
        let product = self.b.ins().imul(quotient, size);
        let coordinate = self.b.ins().isub(*rest, product);
        *rest = quotient;
        Ok(coordinate)
    }
}
