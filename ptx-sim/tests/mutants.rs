//! Kernels with damage done to them: whatever happens, it is an error or a fault with a text, never a panic.

mod common;

use attn_ptx_sim::Module;
use common::runs::{KERNELS, check};
use common::{Numbers, text};

/// Texts with bytes changed, removed and doubled.
#[test]
fn damaged_texts_are_refused_or_read() {
    let mut numbers = Numbers(0xABCD);
    let mut refused = 0;
    for name in KERNELS {
        let whole = text(name);
        for _ in 0..40 {
            let mut bytes = whole.clone().into_bytes();
            for _ in 0..1 + numbers.bits() % 3 {
                let at = numbers.bits() as usize % bytes.len();
                let random = b" {}[];:.,%@!-0x9rf|_"[numbers.bits() as usize % 20];
                match numbers.bits() % 3 {
                    0 => bytes[at] = random,
                    1 => drop(bytes.remove(at)),
                    _ => bytes.insert(at, random),
                }
            }
            let damaged = String::from_utf8_lossy(&bytes).into_owned();
            if let Err(e) = Module::parse(&damaged) {
                refused += 1;
                assert!(e.line as usize <= damaged.lines().count() + 1 && !e.message.is_empty());
            }
        }
    }
    assert!(refused > 150, "most damage is seen: {refused}");
}

/// Kernels that lost a line run, or fault, or compute something else.
#[test]
fn kernels_that_lost_a_line_do_not_panic() {
    let mut noticed = 0;
    let mut tried = 0;
    for name in KERNELS {
        let whole = text(name);
        let lines: Vec<&str> = whole.lines().collect();
        let start = lines.iter().position(|l| *l == "{").expect("a body");
        // Every line of the small kernels, some of the large ones.
        let step = 1 + lines.len() / 24;
        for lost in (start + 1..lines.len() - 1).step_by(step) {
            let left: Vec<&str> = lines[..lost].iter().chain(&lines[lost + 1..]).copied().collect();
            let left = left.join("\n");
            if Module::parse(&left).is_ok() {
                tried += 1;
                noticed += u32::from(check(name, &left, lost as u64).is_err());
            }
        }
    }
    assert!(noticed * 10 > tried * 7, "{noticed} of {tried} losses are noticed");
}
