//! Every intrinsic on every instruction set of this machine: against naive f64 evaluation, against the other
//! instruction sets bit for bit, and at the edges (NaN, infinities, empty rows, odd sizes, strides).
//!
//! In: sizes and seeded values. Buffers end where the contract says that accesses end, or are followed by a
//! sentinel that must survive. Not here: speed (`examples/intrinsics_bench/`).

mod affine;
mod direct;
mod functions;
mod pairs;
mod products;
mod softmax;
mod storage;
mod tiles;

use super::*;

/// The tables of this machine, the portable one last.
fn tables() -> Vec<(Isa, &'static IntrinsicTable)> {
    Isa::available().into_iter().map(|isa| (isa, table(isa))).collect()
}

/// A seeded generator: the same values on every machine.
struct Noise(u32);

impl Noise {
    /// Uniform in [-1, 1).
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (self.0 >> 8) as f32 / (1 << 23) as f32 - 1.0
    }

    fn vec(&mut self, n: usize, scale: f32) -> Vec<f32> {
        (0..n).map(|_| self.next() * scale).collect()
    }
}

/// Bits, with every NaN the same.
fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| if x.is_nan() { 0x7fc0_0000 } else { x.to_bits() }).collect()
}

/// Runs `f` for every table and checks that all results have the same bits; returns the first.
fn same_bits(what: &str, f: impl Fn(&'static IntrinsicTable) -> Vec<f32>) -> Vec<f32> {
    let mut first: Option<(Isa, Vec<f32>)> = None;
    for (isa, t) in tables() {
        let got = f(t);
        match &first {
            None => first = Some((isa, got)),
            Some((other, expected)) => {
                let at = bits(expected).iter().zip(bits(&got)).position(|(a, b)| *a != b);
                if let Some(i) = at {
                    panic!("{what}: element {i} is {:e} on {other}, {:e} on {isa}", expected[i], got[i]);
                }
                assert_eq!(expected.len(), got.len());
            }
        }
    }
    first.expect("portable is always there").1
}

#[test]
fn detection_names_the_variable_and_what_there_is() {
    assert_eq!(Isa::choose(None), Ok(Isa::available()[0]));
    assert_eq!(Isa::choose(Some("portable")), Ok(Isa::Portable));
    let missing = if cfg!(target_arch = "x86_64") { "neon" } else { "avx2" };
    for asked in [missing, "sse9"] {
        let message = Isa::choose(Some(asked)).expect_err("not on this machine").to_string();
        assert!(
            message.contains("ATTN_ISA") && message.contains(asked) && message.contains("portable"),
            "{message}"
        );
    }
}

#[test]
fn the_table_has_an_entry_for_every_intrinsic() {
    for (isa, t) in tables() {
        let entries: Vec<_> = attn_compiler::artifact::Intrinsic::ALL.iter().map(|&i| t.entry(i)).collect();
        assert!(entries.iter().all(|e| !e.is_null()), "{isa}");
        assert_eq!(entries[0], t.gemm() as *const ());
        assert_eq!(entries[13], t.half_to_f32() as *const ());
        assert_eq!(entries[19], t.top_k() as *const ());
        assert_eq!(entries[20], t.keep_largest() as *const ());
        assert_eq!(entries[21], t.mark() as *const ());
        assert_eq!(entries[22], t.gemm_columns() as *const ());
        assert_eq!(entries[23], t.gemm_rows() as *const ());
        assert_eq!(entries[26], t.gemm_pairs() as *const ());
        assert_eq!(entries[33], t.rows_pairs() as *const ());
        // SAFETY: the words at as_ptr are the entries.
        assert_eq!(unsafe { *t.as_ptr().add(7) }, t.store_rows() as *const ());
    }
}
