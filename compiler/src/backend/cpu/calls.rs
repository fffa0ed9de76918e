//! Calls of tile intrinsics through the table in the argument block.
//!
//! Comes in: values for the operands, in the order that `artifact::Intrinsic` documents. Goes out: an indirect
//! call with the platform's C convention, so that the code needs no relocation. Codes and flags travel as
//! 32-bit integers, counts, strides and addresses as 64-bit ones.

use cranelift_codegen::ir::{AbiParam, InstBuilder, MemFlagsData, SigRef, Signature, Type, Value, types};

use crate::artifact::Intrinsic;

use super::BackendError;
use super::emitter::{Emitter, Key, Result};

/// Parameters and result of an intrinsic.
fn signature(f: Intrinsic) -> (&'static [Type], Option<Type>) {
    const W: Type = types::I64;
    const C: Type = types::I32;
    const F: Type = types::F32;
    match f {
        // c, ldc, a, lda, b, panel_stride, rows, k, n, row_scale, accumulate
        Intrinsic::Gemm | Intrinsic::GemmSkipZero | Intrinsic::GemmPairs | Intrinsic::GemmPairsSkipZero => {
            (&[W, W, W, W, W, W, W, W, W, W, C], None)
        }
        // c, ldc, a, lda, b, dtype, stride_x, stride_t, rows, k, n, accumulate, next
        Intrinsic::GemmColumns => (&[W, W, W, W, W, C, W, W, W, W, W, C, W], None),
        // c, ldc, a, lda, b, dtype, stride_t, stride_x, rows, k, n, row_scale, accumulate, skip_zero, next
        Intrinsic::GemmRows => (&[W, W, W, W, W, C, W, W, W, W, W, W, C, C, W], None),
        // dst, n, value
        Intrinsic::Fill => (&[W, W, F], None),
        // dst, src, n_keys, d, stride_key, stride_d
        Intrinsic::PackKPairs => (&[W, W, W, W, W, W], None),
        // dst, panel_stride, src, n_keys, d, stride_key, stride_d
        Intrinsic::PackVPairs => (&[W, W, W, W, W, W, W], Some(W)),
        // dst, ldd, src, rows, d, stride_row, stride_d
        Intrinsic::LoadPairs => (&[W, W, W, W, W, W, W], None),
        // dst, ldd, src, lds, rows, cols
        Intrinsic::RoundPairs => (&[W, W, W, W, W, W], None),
        // c, ldc, a, lda, b, stride_x, stride_t, rows, k, n, accumulate, next
        Intrinsic::ColumnsPairs => (&[W, W, W, W, W, W, W, W, W, W, C, W], None),
        // c, ldc, a, lda, b, stride_t, stride_x, rows, k, n, row_scale, accumulate, skip_zero, next
        Intrinsic::RowsPairs => (&[W, W, W, W, W, W, W, W, W, W, W, C, C, W], None),
        // s, lds, rows, cols, scale, row_max, row_sum, alpha, floor_unmasked
        Intrinsic::SoftmaxStep => (&[W, W, W, W, F, W, W, W, C], None),
        // kind, s, lds, rows, cols, scale, row_max, floor_unmasked
        Intrinsic::WeightStep => (&[C, W, W, W, W, F, W, C], None),
        // dst, src, dtype, n_keys, d, stride_key, stride_d
        Intrinsic::PackK => (&[W, W, C, W, W, W, W], None),
        // dst, panel_stride, src, dtype, n_keys, d, stride_key, stride_d
        Intrinsic::PackV => (&[W, W, W, C, W, W, W, W], Some(W)),
        // dst, ldd, src, dtype, rows, d, stride_row, stride_d
        Intrinsic::LoadRows => (&[W, W, W, C, W, W, W, W], None),
        // src, lds, dst, dtype, rows, d, stride_row, stride_d, row_scale
        Intrinsic::StoreRows => (&[W, W, W, C, W, W, W, W, W], None),
        // src, dst, dtype, n, stride
        Intrinsic::StoreVec => (&[W, W, C, W, W], None),
        // rows, row_max, row_sum, sink, inv_sum, lse
        Intrinsic::FinishSoftmax => (&[W, W, W, F, W, W], None),
        // fn, s, lds, rows, cols
        Intrinsic::VMath => (&[C, W, W, W, W], None),
        // fn, x
        Intrinsic::Math1 => (&[C, F], Some(F)),
        // x, y
        Intrinsic::Pow => (&[F, F], Some(F)),
        // bits
        Intrinsic::HalfToF32 => (&[C], Some(F)),
        // dst, ldd, src, lds, rows, cols
        Intrinsic::Transpose => (&[W, W, W, W, W, W], None),
        // s, lds, rows, cols, decay
        Intrinsic::ScanRows => (&[W, W, W, W, W], None),
        // s, lds, rows, cols, scale, factor, term, step, keep_zero
        Intrinsic::Affine => (&[W, W, W, W, F, W, W, W, C], None),
        // s, lds, rows, cols, period, from, from_step, to, to_step
        Intrinsic::Band => (&[W, W, W, W, W, W, W, W, W], None),
        // op, dst, src, lds, rows, cols
        Intrinsic::ReduceRows => (&[C, W, W, W, W, W], None),
        // hi, lo, src, dtype, n, stride
        Intrinsic::PrefixSum => (&[W, W, W, C, W, W], None),
        // indices, ranks, src, dtype, n, stride, m, width
        Intrinsic::TopK => (&[W, W, W, C, W, W, W, W], None),
        // best, at, ldb, src, lds, rows, cols, first, m
        Intrinsic::KeepLargest => (&[W, W, W, W, W, W, W, W, W], None),
        // dst, ldd, at, lda, rows, cols, first
        Intrinsic::Mark => (&[W, W, W, W, W, W, W], None),
        // s, lds, rows, cols, row0, col0, stream, offset, seed, threshold, keep_scale
        Intrinsic::Random => (&[W, W, W, W, W, W, W, W, W, W, F], None),
    }
}

impl Emitter<'_, '_> {
    /// Address of an intrinsic.
    pub fn function(&mut self, f: Intrinsic) -> Value {
        if let Some(known) = self.recall(Key::Function(f)) {
            return known;
        }
        let table = self.word(0);
        let flags = MemFlagsData::trusted().with_readonly().with_can_move();
        let address = self.b.ins().load(types::I64, flags, table, f as i32 * 8);
        self.remember(Key::Function(f), address);
        address
    }

    fn sig(&mut self, f: Intrinsic) -> SigRef {
        if let Some(&known) = self.sigs.get(&f) {
            return known;
        }
        let (params, result) = signature(f);
        let abi = |&ty: &Type| if ty == types::I32 { AbiParam::new(ty).uext() } else { AbiParam::new(ty) };
        let mut sig = Signature::new(self.isa.conv);
        sig.params.extend(params.iter().map(abi));
        sig.returns.extend(result.map(AbiParam::new));
        let sig = self.b.import_signature(sig);
        self.sigs.insert(f, sig);
        sig
    }

    /// Calls an intrinsic that gives a value.
    pub fn call(&mut self, f: Intrinsic, args: &[Value]) -> Result<Value> {
        let address = self.function(f);
        let results = self.call_at(f, address, args)?;
        results
            .ok_or_else(|| BackendError::internal("calls", "the intrinsic gives a value", format!("{f:?}")))
    }

    /// Calls an intrinsic for what it does.
    pub fn run(&mut self, f: Intrinsic, args: &[Value]) -> Result<()> {
        let address = self.function(f);
        self.call_at(f, address, args).map(|_| ())
    }

    /// Calls `address`, which has the signature of `f`.
    pub fn call_at(&mut self, f: Intrinsic, address: Value, args: &[Value]) -> Result<Option<Value>> {
        let given: Vec<Type> = args.iter().map(|&v| self.b.func.dfg.value_type(v)).collect();
        if given != signature(f).0 {
            let what = format!("arguments have the types {:?}, not {given:?}", signature(f).0);
            return Err(BackendError::internal("calls", what, format!("{f:?}")));
        }
        let sig = self.sig(f);
        let inst = self.b.ins().call_indirect(sig, address, args);
        Ok(self.b.inst_results(inst).first().copied())
    }
}
