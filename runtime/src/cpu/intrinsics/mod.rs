//! The tile intrinsics that generated CPU kernels call, for every instruction set.
//!
//! In: an [`Isa`] (what the machine has, or `ATTN_ISA`). Out: an [`IntrinsicTable`], whose address a kernel
//! receives in its arguments. Afterwards: the entries keep the contracts written in
//! [`attn_compiler::artifact::Intrinsic`], with the same bits on every instruction set (but for the payload
//! of a NaN, and subnormal bf16 in products of pairs). Each kernel is written once, over [`simd::Simd`], sixteen lanes wide. Not here: loops over
//! tiles, masks, threads: generated code has them.

mod affine;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod convert;
mod direct;
mod element;
mod exp;
mod gemm;
mod isa;
mod largest;
mod math;
#[cfg(target_arch = "aarch64")]
mod neon;
mod pack;
mod pairs;
mod portable;
mod probe;
mod random;
mod rows;
mod signatures;
mod simd;
mod softmax;
mod span;
mod stream;
mod table;
#[cfg(test)]
mod tests;
mod tiles;
mod vectors;

pub use isa::{ISA_VARIABLE, Isa, IsaError};
pub use signatures::{
    AffineFn, BandFn, ColumnsPairsFn, FillFn, FinishSoftmaxFn, GemmColumnsFn, GemmFn, GemmRowsFn,
    HalfToF32Fn, KeepLargestFn, LoadPairsFn, LoadRowsFn, MarkFn, Math1Fn, PackKFn, PackKPairsFn, PackVFn,
    PackVPairsFn, PowFn, PrefixSumFn, RandomFn, ReduceRowsFn, RoundPairsFn, RowsPairsFn, ScanRowsFn,
    SoftmaxStepFn, StoreRowsFn, StoreVecFn, TopKFn, TransposeFn, VMathFn, WeightStepFn,
};
pub(crate) use table::Probe;
pub use table::{IntrinsicTable, table};
