//! When a result is right: gates on the error against the f64 reference on the rounded inputs.
//!
//! Comes in: results, reference, the dtype that was stored, and the largest |score|. Goes out: a [`Report`]
//! with the errors, the gates and a verdict. The numbers were measured (f32 accumulation, weights rounded to the
//! dtype before the second product, N(0, 1) inputs) and leave a factor of two to seven. NaN and infinities must
//! stand in the same places: a gate on the rest alone would pass a kernel that loses them.

use crate::artifact::DType;
use crate::attn_ir::{Measure, Products};

/// Gates of one output.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gate {
    /// `|o - ref| <= atol + rtol * |ref|` for each element.
    pub atol: f64,
    /// See `atol`.
    pub rtol: f64,
    /// `norm2(o - ref) <= rel_l2 * norm2(ref)`; none for vectors of logarithms.
    pub rel_l2: Option<f64>,
    /// So many runs of as many elements, for each of which `rel_l2` holds: 1 is the whole.
    pub groups: usize,
}

impl Gate {
    /// The same for each of `n` runs of elements.
    pub fn in_groups(self, n: usize) -> Gate {
        Gate { groups: n.max(1), ..self }
    }

    /// The same where products may round so.
    pub fn of_products(self, products: Products, max_abs_score: f64) -> Gate {
        if products != Products::Tf32 {
            return self;
        }
        let atol = 2e-3 * score_scale(max_abs_score);
        match self.rel_l2 {
            Some(l2) => Gate {
                atol: self.atol.max(atol),
                rtol: self.rtol.max(2e-3),
                rel_l2: Some(l2.max(1e-3)),
                ..self
            },
            None => Gate { atol: self.atol.max(atol), ..self },
        }
    }
}

/// Errors of an output and the verdict.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Largest |o - ref| over finite elements.
    pub max_abs: f64,
    /// `norm2(o - ref) / norm2(ref)` over finite elements; the numerator where the reference is all zero. The largest
    /// of all groups.
    pub rel_l2: f64,
    /// What was asked.
    pub gate: Gate,
    /// Element with the largest error in units of its gate, or the first that disagrees about NaN or infinity.
    pub worst: usize,
    /// Elements where one is NaN or infinite and the other is not the same.
    pub n_nonfinite: usize,
    /// Within every gate.
    pub ok: bool,
}

/// Largest score for which f32 gates hold unscaled; the rounding of a score grows with it.
const SCORE_UNIT: f64 = 4.0;

fn score_scale(max_abs_score: f64) -> f64 {
    (max_abs_score / SCORE_UNIT).max(1.0)
}

/// Gates of `weight @ v` stored as `dtype`; those of f32 scale with `max(1, max|S| / 4)`.
pub fn output_gate(dtype: DType, max_abs_score: f64) -> Gate {
    let (atol, rtol, rel_l2) = match dtype {
        DType::F64 => (1e-11, 1e-10, 1e-12),
        DType::F16 => (2e-3, 2e-3, 1e-3),
        DType::Bf16 => (1.5e-2, 1.6e-2, 6e-3),
        // Half a step is 2^-4 of the value, or 2^-10.
        DType::F8E4M3 => (4e-3, 8e-2, 5e-2),
        _ => {
            let scale = score_scale(max_abs_score);
            (2e-6 * scale, 1e-5, 2e-6 * scale)
        }
    };
    Gate { atol, rtol, rel_l2: Some(rel_l2), groups: 1 }
}

/// Gate of lse and max_logit, which are f32 whatever `dtype` the inputs have; scales with `max(1, max|S| / 4)`.
pub fn lse_gate(dtype: DType, max_abs_score: f64) -> Gate {
    let atol = match dtype {
        DType::F64 => 1e-11,
        DType::F16 | DType::Bf16 => 1e-4,
        _ => 1e-5,
    };
    Gate { atol: atol * score_scale(max_abs_score), rtol: 0.0, rel_l2: None, groups: 1 }
}

/// The gate of an output of `dtype`; `float` is what the inputs hold, `reference` what it is compared with.
pub fn gate(measure: Measure, dtype: DType, float: DType, max_abs_score: f64, reference: &[f64]) -> Gate {
    let plain = output_gate(dtype, max_abs_score);
    let largest = || reference.iter().filter(|x| x.is_finite()).fold(0.0f64, |m, x| m.max(x.abs()));
    match measure {
        Measure::Logarithm => lse_gate(float, max_abs_score),
        Measure::Average => plain,
        Measure::Share if dtype != DType::F64 => {
            Gate { atol: plain.atol.max(8.0 * f64::from(f32::EPSILON) * largest()), ..plain }
        }
        Measure::Share => plain,
        Measure::Sum | Measure::Recurred => {
            let (eps, rel_l2) = match dtype {
                DType::F64 => (f64::EPSILON, 1e-12),
                DType::F16 => (2f64.powi(-10), 2e-3),
                DType::Bf16 => (2f64.powi(-7), 1e-2),
                DType::F8E4M3 => (2f64.powi(-3), 5e-2),
                _ => (f64::from(f32::EPSILON), 5e-6),
            };
            let rel_l2 = plain.rel_l2.map_or(rel_l2, |l2| l2.max(rel_l2));
            let sized = 8.0 * eps * largest();
            let (atol, rtol) = match measure {
                Measure::Recurred => (sized.max(f64::from(f32::MIN_POSITIVE)), 0.0),
                _ => (plain.atol.max(sized), plain.rtol),
            };
            Gate { atol, rtol, rel_l2: Some(rel_l2), groups: 1 }
        }
    }
}

/// The gate of a tensor that is updated in place: its elements are those of the reference, or the neighbours of them
/// in the storage type, where a rounding of inexact values fell to the other side. Steps of int8 are 1.
pub fn stored_gate(dtype: DType) -> Gate {
    let (atol, rtol) = match dtype {
        DType::I8 => (1.0, 0.0),
        DType::F16 => (2f64.powi(-24), 2f64.powi(-10)),
        DType::Bf16 => (1e-38, 2f64.powi(-7)),
        DType::F8E4M3 => (2f64.powi(-9), 2f64.powi(-3)),
        DType::F64 => (1e-11, 1e-10),
        _ => (2e-6, 2e-6),
    };
    Gate { atol, rtol, rel_l2: None, groups: 1 }
}

/// Checks `weight @ v` against the reference.
pub fn check(o: &[f64], reference: &[f64], dtype: DType, max_abs_score: f64) -> Report {
    check_gate(o, reference, output_gate(dtype, max_abs_score))
}

/// Checks lse or max_logit against the reference; `dtype` is that of the inputs.
pub fn check_lse(lse: &[f64], reference: &[f64], dtype: DType, max_abs_score: f64) -> Report {
    check_gate(lse, reference, lse_gate(dtype, max_abs_score))
}

/// Checks any output against a gate. Different lengths are never right.
pub fn check_gate(o: &[f64], reference: &[f64], gate: Gate) -> Report {
    let mut report = Report { max_abs: 0.0, rel_l2: 0.0, gate, worst: 0, n_nonfinite: 0, ok: true };
    let mut worst = 0.0;
    let group = reference.len().div_ceil(gate.groups).max(1);
    let mut norms = vec![(0.0, 0.0); gate.groups];
    for (n, (&x, &r)) in o.iter().zip(reference).enumerate() {
        if !x.is_finite() || !r.is_finite() {
            if x != r && !(x.is_nan() && r.is_nan()) {
                report.worst = if report.n_nonfinite == 0 { n } else { report.worst };
                report.n_nonfinite += 1;
            }
            continue;
        }
        let error = (x - r).abs();
        let share = error / (gate.atol + gate.rtol * r.abs());
        report.max_abs = report.max_abs.max(error);
        if share > worst && report.n_nonfinite == 0 {
            report.worst = n;
        }
        worst = share.max(worst);
        let (error2, norm2) = &mut norms[n / group];
        *error2 += error * error;
        *norm2 += r * r;
    }
    let relative = |&(error2, norm2): &(f64, f64)| {
        if norm2 > 0.0 { (error2 / norm2).sqrt() } else { error2.sqrt() }
    };
    report.rel_l2 = norms.iter().map(relative).fold(0.0, f64::max);
    report.ok = o.len() == reference.len()
        && report.n_nonfinite == 0
        && worst <= 1.0
        && gate.rel_l2.is_none_or(|g| report.rel_l2 <= g);
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gates_scale_with_the_scores() {
        assert_eq!(output_gate(DType::F32, 1.0).atol, 2e-6);
        assert!((output_gate(DType::F32, 40.0).atol - 2e-5).abs() < 1e-12);
        assert_eq!(output_gate(DType::F16, 40.0).atol, 2e-3);
        assert!((lse_gate(DType::F32, 8.0).atol - 2e-5).abs() < 1e-12);
    }

    #[test]
    fn products_of_tf32_have_gates_of_their_own() {
        let (average, log) = (output_gate(DType::F32, 1.0), lse_gate(DType::F32, 1.0));
        assert_eq!(average.of_products(Products::ByType, 1.0), average);
        let coarse = average.of_products(Products::Tf32, 1.0);
        assert_eq!((coarse.atol, coarse.rtol, coarse.rel_l2), (2e-3, 2e-3, Some(1e-3)));
        assert_eq!(log.of_products(Products::Tf32, 8.0), Gate { atol: 4e-3, ..log });
        let half = output_gate(DType::Bf16, 1.0);
        assert_eq!(half.of_products(Products::Tf32, 1.0), half);
    }

    #[test]
    fn errors_are_found() {
        let reference: Vec<f64> = (0..100).map(|n| f64::from(n) / 50.0 - 1.0).collect();
        let mut o = reference.clone();
        assert!(check(&o, &reference, DType::F32, 1.0).ok);
        o[7] += 1.9e-5;
        let report = check(&o, &reference, DType::F32, 1.0);
        assert!(!report.ok && report.worst == 7 && (report.max_abs - 1.9e-5).abs() < 1e-9);
        assert!(check(&o, &reference, DType::F16, 1.0).ok);
        assert!(!check(&o[1..], &reference, DType::F16, 1.0).ok);
    }

    #[test]
    fn many_small_errors_fail_the_norm() {
        let reference = vec![1.0; 100];
        let o = vec![1.0 + 5e-6; 100];
        let report = check(&o, &reference, DType::F32, 1.0);
        assert!(report.max_abs < report.gate.rtol && !report.ok);
    }

    #[test]
    fn nonfinite_places_must_agree() {
        let (inf, nan) = (f64::INFINITY, f64::NAN);
        assert!(check(&[nan, inf, -inf], &[nan, inf, -inf], DType::F32, 1.0).ok);
        for (x, r) in [(nan, 1.0), (1.0, nan), (inf, -inf), (nan, inf), (0.0, -inf), (inf, 1.0)] {
            let report = check(&[0.0, x], &[0.0, r], DType::Bf16, 1.0);
            assert!(!report.ok && report.n_nonfinite == 1 && report.worst == 1, "{x} {r}");
        }
    }

    #[test]
    fn each_group_has_a_norm_of_its_own() {
        // The error of the small half is lost in the norm of the whole.
        let reference: Vec<f64> = (0..100).map(|n| if n < 50 { 1.0 } else { 1e4 }).collect();
        let o: Vec<f64> = reference.iter().map(|x| if *x == 1.0 { 1.0 + 1e-3 } else { *x }).collect();
        let gate = gate(Measure::Sum, DType::F32, DType::F32, 0.0, &reference);
        assert!(check_gate(&o, &reference, gate).ok);
        let report = check_gate(&o, &reference, gate.in_groups(2));
        assert!(!report.ok && (report.rel_l2 - 1e-3).abs() < 1e-9, "{report:?}");
    }
}
