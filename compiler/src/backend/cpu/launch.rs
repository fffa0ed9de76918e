//! One launch: the function, its prologue, its body.
//!
//! Comes in: a launch and an empty CLIF function. Goes out: the function filled. The prologue splits `task`
//! into grid coordinates, the last one fastest; a task number of a grid with an empty side (which the runtime
//! never starts) gives zeros instead of a trap.

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{AbiParam, Function, InstBuilder, Signature, UserFuncName, Value, types};
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};

use crate::artifact::ArgLayout;
use crate::expr::ExprId;
use crate::expr::range::Range;
use crate::tile_ir::{Launch, Program};

use super::emitter::{Emitter, Known, Result};
use super::isa::Isa;
use super::scratch::Scratch;

/// Builds the function of `launch` in `func`, which is empty.
pub(super) fn build(
    func: &mut Function,
    context: &mut FunctionBuilderContext,
    program: &Program,
    launch: &Launch,
    layout: &ArgLayout,
    places: &Scratch,
    (isa, known): (&Isa, &Known),
) -> Result<()> {
    let mut signature = Signature::new(isa.conv);
    signature.params.extend([types::I64, types::I64, types::I64].map(AbiParam::new));
    func.signature = signature;
    func.name = UserFuncName::testcase(&launch.name);
    let mut b = FunctionBuilder::new(func, context);
    let entry = b.create_block();
    b.append_block_params_for_function_params(entry);
    b.switch_to_block(entry);
    let [args, scratch, task] = std::array::from_fn(|n| b.block_params(entry)[n]);
    let mut e = Emitter::new(b, program, launch, layout, places, (isa, known), (args, scratch));
    let built = e.body(task);
    if built.is_ok() {
        e.b.ins().return_(&[]);
    }
    e.b.seal_all_blocks();
    match built {
        Ok(()) => e.b.finalize(isa.target.frontend_config()),
        // What was built so far is dropped with the builder's context, which wants to be emptied.
        Err(_) => *context = FunctionBuilderContext::new(),
    }
    built
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
