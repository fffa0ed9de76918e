//! Attributes that MLIR 19 cannot write. In: a translated module; out: the same, with every call of inline assembly and
//! of a convergent function marked `convergent nounwind`, and every function too.
//!
//! Why: no pass may then make such a call depend on more conditions than it did, so none is duplicated into the arms of a
//! branch (a `bar.sync` in two divergent arms hangs or mixes phases), hoisted out of one or sunk into one. All inline
//! assembly is marked, what needs it and what does not: a kernel's author cannot tell MLIR which is which.
//!
//! Not done: `memory(none)` for assembly without side effects; LLVM may then not remove or merge two equal ones.

use crate::ffi;
use inkwell::attributes::{Attribute, AttributeLoc};
use inkwell::context::Context;
use inkwell::module::Module;
use inkwell::values::CallSiteValue;

/// Marks all of `module`; with `ftz`, f32 arithmetic is also told that subnormal numbers are zero.
pub fn mark<'l>(context: &'l Context, module: &Module<'l>, ftz: bool) {
    let convergent = Attribute::get_named_enum_kind_id("convergent");
    let nounwind = Attribute::get_named_enum_kind_id("nounwind");
    let marks = [convergent, nounwind].map(|kind| context.create_enum_attribute(kind, 0));
    let zero = context.create_string_attribute("denormal-fp-math-f32", "preserve-sign,preserve-sign");
    for function in module.get_functions().filter(|f| f.count_basic_blocks() > 0) {
        for attribute in marks {
            function.add_attribute(AttributeLoc::Function, attribute);
        }
        if ftz {
            function.add_attribute(AttributeLoc::Function, zero);
        }
    }
    // Second, so that a call of a function that was marked above is marked as well.
    for function in module.get_functions() {
        for instruction in function.get_basic_block_iter().flat_map(|b| b.get_instructions()) {
            let Ok(call) = CallSiteValue::try_from(instruction) else { continue };
            let callee_is_convergent = || {
                call.get_called_fn_value()
                    .is_none_or(|f| f.get_enum_attribute(AttributeLoc::Function, convergent).is_some())
            };
            if ffi::is_inline_asm(call) || callee_is_convergent() {
                for attribute in marks {
                    call.add_attribute(AttributeLoc::Function, attribute);
                }
            }
        }
    }
}
