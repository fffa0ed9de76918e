//! The cases of a kernel's `test` clauses: the product of the axes of each grid.
//!
//! What holds: a kernel without a `test` clause has one case at made-up sizes, so that no kernel of a file is
//! silently left out.

use std::collections::BTreeMap;

use attn_compiler::expr::eval::Value;
use attn_compiler::sema::CheckedKernel;
use attn_compiler::sema::model::TestGrid;

/// One point of a grid.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Case {
    /// `Sq = 17, window = 4`
    pub label: String,
    /// Sizes.
    pub dims: BTreeMap<String, i64>,
    /// Parameters.
    pub params: Vec<(String, Value)>,
}

/// Most cases of one kernel; more are an error of the grid's author.
pub const MAX_CASES: usize = 10_000;

/// Every case of a kernel, or how many there would be.
pub fn cases(spec: &CheckedKernel) -> Result<Vec<Case>, usize> {
    let n = |grid: &TestGrid| grid.axes.iter().fold(1usize, |n, axis| n.saturating_mul(axis.values.len()));
    let total = spec.tests.iter().fold(0usize, |sum, grid| sum.saturating_add(n(grid)));
    if total > MAX_CASES {
        return Err(total);
    }
    let is_dim = |name: &str| spec.dims.iter().any(|d| d.name == name);
    let mut cases: Vec<Case> = spec.tests.iter().flat_map(|grid| product(grid, &is_dim)).collect();
    if cases.is_empty() {
        cases.push(Case { label: "no test clause: made-up sizes".into(), ..Case::default() });
    }
    Ok(cases)
}

/// Whether any grid asks for gradients.
pub fn wants_gradients(spec: &CheckedKernel) -> bool {
    spec.tests.iter().any(|grid| grid.grad)
}

fn product(grid: &TestGrid, is_dim: &dyn Fn(&str) -> bool) -> Vec<Case> {
    let mut cases = vec![Case::default()];
    for axis in &grid.axes {
        let grown = cases.iter().flat_map(|case| {
            axis.values.iter().map(|&value| {
                let mut case = case.clone();
                let text = match value {
                    Value::Int(x) => x.to_string(),
                    Value::Float(x) => x.to_string(),
                    Value::Bool(x) => x.to_string(),
                };
                let comma = if case.label.is_empty() { "" } else { ", " };
                case.label += &format!("{comma}{} = {text}", axis.name);
                match value {
                    Value::Int(size) if is_dim(&axis.name) => drop(case.dims.insert(axis.name.clone(), size)),
                    value => case.params.push((axis.name.clone(), value)),
                }
                case
            })
        });
        cases = grown.collect();
    }
    if grid.axes.is_empty() {
        cases[0].label = "made-up sizes".into();
    }
    cases
}

#[cfg(test)]
mod tests {
    use attn_compiler::pipeline;

    use super::*;

    fn spec_of(test: &str) -> CheckedKernel {
        let text = format!(
            "attention a(w: int = 4) {{ dims B, H, S, D  input q, k, v : float[B, H, S, D]  score = dot(q, k)\n\
             mask = j < w  weight = softmax(score)  return weight @ v  {test} }}"
        );
        let front = pipeline::front("a.attn", &text, &mut attn_compiler::sema::no_files, &mut ());
        assert!(!front.diagnostics.has_errors(), "{:?}", front.diagnostics);
        front.checked.kernels[0].clone()
    }

    #[test]
    fn axes_multiply_and_dims_are_told_from_parameters() {
        let spec = spec_of("test (S = [1, 17], w = [2, 3, 4], grad = true)");
        let all = cases(&spec).unwrap();
        assert_eq!(all.len(), 6);
        assert_eq!((all[5].label.as_str(), all[5].dims["S"]), ("S = 17, w = 4", 17));
        assert_eq!(all[5].params, [("w".to_string(), Value::Int(4))]);
        assert!(wants_gradients(&spec));
    }

    #[test]
    fn a_kernel_without_tests_is_not_left_out() {
        let all = cases(&spec_of("")).unwrap();
        assert!(all.len() == 1 && all[0].label.starts_with("no test clause"));
    }
}
