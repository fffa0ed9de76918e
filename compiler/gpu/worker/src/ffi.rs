//! The calls of MLIR and LLVM that melior and inkwell have no safe function for. All `unsafe` of this crate is here.
//!
//! In and out: melior's and inkwell's own types. Holds: nothing of a raw pointer leaves this file.

use inkwell::context::{AsContextRef, Context as LlvmContext};
use inkwell::llvm_sys::LLVMDiagnosticSeverity;
use inkwell::llvm_sys::core::{
    LLVMContextSetDiagnosticHandler, LLVMDisposeMessage, LLVMGetCalledValue, LLVMGetDiagInfoDescription,
    LLVMGetDiagInfoSeverity, LLVMIsAInlineAsm,
};
use inkwell::llvm_sys::error_handling::LLVMInstallFatalErrorHandler;
use inkwell::llvm_sys::prelude::LLVMDiagnosticInfoRef;
use inkwell::module::Module as LlvmModule;
use inkwell::values::{AsValueRef, CallSiteValue};
use melior::Context;
use melior::dialect::DialectHandle;
use melior::ir::Module;
use std::cell::RefCell;
use std::ffi::{CStr, c_char, c_void};

/// The exit code when LLVM refuses.
pub const LLVM_REFUSED: u8 = 3;

unsafe extern "C" {
    /// Of `mlir-c/Dialect/NVVM.h`, which mlir-sys leaves out.
    fn mlirGetDialectHandle__nvvm__() -> mlir_sys::MlirDialectHandle;
}

/// A context that knows builtin, `llvm` and `nvvm`, and no other dialect.
pub fn mlir_context() -> Context {
    let context = Context::new();
    context.enable_multi_threading(false);
    // SAFETY: the function has no preconditions; the handle it gives lives as long as the library.
    let nvvm = unsafe { DialectHandle::from_raw(mlirGetDialectHandle__nvvm__()) };
    DialectHandle::llvm().load_dialect(&context);
    nvvm.load_dialect(&context);
    context
}

/// Hands `module` over to LLVM, in memory. `None`: it cannot be translated, and `context` has been told why.
pub fn translate<'l>(context: &Context, module: &Module, llvm: &'l LlvmContext) -> Option<LlvmModule<'l>> {
    // Only now: it registers more dialects, which the text must not use.
    melior::utility::register_all_llvm_translations(context);
    // SAFETY: `module` is a verified operation of `context`, and `llvm` a context that outlives what is made in it.
    let raw = unsafe {
        mlir_sys::mlirTranslateModuleToLLVMIR(module.as_operation().to_raw(), llvm.as_ctx_ref().cast())
    };
    // SAFETY: not null, it is a module of `llvm` that nothing else owns.
    (!raw.is_null()).then(|| unsafe { LlvmModule::new(raw.cast()) })
}

/// Whether a call is of inline assembly.
pub fn is_inline_asm(call: CallSiteValue) -> bool {
    // SAFETY: the value is a call instruction, so it has a called value.
    unsafe { !LLVMIsAInlineAsm(LLVMGetCalledValue(call.as_value_ref())).is_null() }
}

/// What LLVM said while it compiled.
pub struct Messages {
    errors: Box<RefCell<Vec<String>>>,
}

impl Messages {
    /// The errors. After one, what LLVM has written is not to be used.
    pub fn errors(&self) -> Vec<String> {
        self.errors.borrow().clone()
    }
}

/// Errors of code generation in `context` are kept, not printed with an end to the process. Warnings go to stderr.
pub fn collect_messages(context: &LlvmContext) -> Messages {
    extern "C" fn keep(info: LLVMDiagnosticInfoRef, errors: *mut c_void) {
        // SAFETY: LLVM calls this with a message, which gives a C string that is ours to free.
        let (text, severity) = unsafe {
            let raw = LLVMGetDiagInfoDescription(info);
            let text = CStr::from_ptr(raw).to_string_lossy().into_owned();
            LLVMDisposeMessage(raw);
            (text, LLVMGetDiagInfoSeverity(info))
        };
        match severity {
            LLVMDiagnosticSeverity::LLVMDSError => {
                // SAFETY: `errors` is the pointer given below.
                unsafe { &*errors.cast::<RefCell<Vec<String>>>() }.borrow_mut().push(text);
            }
            LLVMDiagnosticSeverity::LLVMDSWarning => eprintln!("attnc-llvm: LLVM warns: {text}"),
            _ => {}
        }
    }
    let messages = Messages { errors: Box::default() };
    let errors: *const RefCell<Vec<String>> = &*messages.errors;
    // SAFETY: the box stays where it is for as long as `messages`, which `compile` holds until the last use of `context`.
    unsafe { LLVMContextSetDiagnosticHandler(context.as_ctx_ref(), Some(keep), errors.cast_mut().cast()) };
    messages
}

/// A fatal error of LLVM is printed and ends this process with [`LLVM_REFUSED`], without a core dump.
pub fn catch_fatal_errors() {
    extern "C" fn end(message: *const c_char) {
        // SAFETY: LLVM calls this with a C string.
        let message = unsafe { CStr::from_ptr(message) }.to_string_lossy();
        eprintln!("attnc-llvm: LLVM ended on a fatal error: {message}");
        // SAFETY: it ends the process and runs nothing of LLVM's, which is in an unknown state.
        unsafe { libc::_exit(i32::from(LLVM_REFUSED)) }
    }
    // SAFETY: the handler is a function of the right type that never returns.
    unsafe { LLVMInstallFatalErrorHandler(Some(end)) };
}
