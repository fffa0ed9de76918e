//! Where diverged lanes meet again.
//!
//! Comes in: a kernel's instructions. Goes out: for each instruction that branches, its immediate postdominator: the first
//! instruction that every path from the branch to the end of the kernel goes through. What holds: as compilers for the
//! machine place convergence points there, lanes are together again from that instruction on. Method: Cooper, Harvey and
//! Kennedy, "A simple, fast dominance algorithm" (2001), on the reversed graph.

use crate::isa::{Inst, Op, P_TRUE};

/// No such instruction: the paths meet only at the end.
pub(crate) const NEVER: u32 = u32::MAX;

fn always(inst: &Inst) -> bool {
    inst.guard.row == P_TRUE && !inst.guard.negated
}

/// Successors of the instruction `n` as instruction indices; the end is `code.len()`.
fn next(code: &[Inst], n: usize) -> Vec<usize> {
    let inst = &code[n];
    match &inst.op {
        Op::Bra { target } if always(inst) => vec![*target as usize],
        Op::Bra { target } => vec![n + 1, *target as usize],
        Op::Exit | Op::Trap if always(inst) => vec![code.len()],
        Op::Exit | Op::Trap => vec![n + 1, code.len()],
        _ => vec![n + 1],
    }
}

/// The immediate postdominator of every instruction.
pub(crate) fn postdominators(code: &[Inst]) -> Vec<u32> {
    let end = code.len();
    let succ: Vec<Vec<usize>> = (0..end).map(|n| next(code, n)).collect();
    let mut pred: Vec<Vec<usize>> = vec![Vec::new(); end + 1];
    for (n, list) in succ.iter().enumerate() {
        list.iter().for_each(|s| pred[*s].push(n));
    }
    // Postorder of the reversed graph from the end.
    let mut number = vec![usize::MAX; end + 1];
    let mut order = Vec::new();
    let mut seen = vec![false; end + 1];
    let mut stack = vec![(end, 0)];
    seen[end] = true;
    while let Some((n, i)) = stack.pop() {
        if let Some(p) = pred[n].get(i) {
            stack.push((n, i + 1));
            if !seen[*p] {
                seen[*p] = true;
                stack.push((*p, 0));
            }
        } else {
            number[n] = order.len();
            order.push(n);
        }
    }
    let mut idom = vec![usize::MAX; end + 1];
    idom[end] = end;
    let mut changed = true;
    while changed {
        changed = false;
        for n in order.iter().rev().copied().filter(|n| *n != end) {
            let mut new = usize::MAX;
            for s in succ[n].iter().copied().filter(|s| idom[*s] != usize::MAX) {
                new = if new == usize::MAX { s } else { meet(&idom, &number, new, s) };
            }
            if new != idom[n] {
                idom[n] = new;
                changed = true;
            }
        }
    }
    // Lanes whose paths meet only at a `ret` do not wait for each other: they end.
    let ends = |n: usize| matches!(code[n].op, Op::Exit) && always(&code[n]);
    (0..end).map(|n| if idom[n] >= end || ends(idom[n]) { NEVER } else { idom[n] as u32 }).collect()
}

fn meet(idom: &[usize], number: &[usize], mut a: usize, mut b: usize) -> usize {
    while a != b {
        while number[a] < number[b] {
            a = idom[a];
        }
        while number[b] < number[a] {
            b = idom[b];
        }
    }
    a
}
