//! What launches in the simulator did: instructions and bank conflicts, as tables and for machines.
//!
//! Comes in: a report of every launch of one run. Goes out: text and JSON. What holds: counts are of warps, so an
//! instruction that 32 threads execute together counts once. Not here: time, which the simulator does not know.

use attnc::LaunchReport;

use super::table::Table;

/// Opcodes of a launch that are shown in text; JSON has all.
const SHOWN: usize = 6;

/// A table of launches, and one of conflicting lines if there are any.
pub fn text(reports: &[LaunchReport]) -> String {
    let titles =
        ["launch", "blocks", "threads", "shared bytes", "instructions", "most frequent", "bank conflicts"];
    let mut launches = Table::new(&titles);
    let mut conflicts = Table::new(&["launch", "line", "accesses", "extra wavefronts", "instruction"]);
    let mut n_conflicts = 0;
    for r in reports {
        let counts = &r.counts;
        let frequent: Vec<String> =
            counts.opcodes.iter().take(SHOWN).map(|(name, n)| format!("{name} {n}")).collect();
        let blocks = match r.tasks {
            tasks if tasks == r.blocks => tasks.to_string(),
            tasks => format!("{} for {tasks} tasks", r.blocks),
        };
        launches.row([
            r.launch.clone(),
            blocks,
            r.threads.to_string(),
            counts.shared_bytes.to_string(),
            counts.steps.to_string(),
            frequent.join(", "),
            counts.extra_wavefronts().to_string(),
        ]);
        for c in &counts.bank_conflicts {
            n_conflicts += 1;
            let numbers = [u64::from(c.line), c.accesses, c.extra_wavefronts].map(|n| n.to_string());
            let [line, accesses, extra] = numbers;
            conflicts.row([r.launch.clone(), line, accesses, extra, c.text.clone()]);
        }
    }
    if n_conflicts == 0 { launches.to_string() } else { format!("{launches}\n{conflicts}") }
}

/// For machines: everything that was counted.
pub fn json(reports: &[LaunchReport]) -> serde_json::Value {
    let conflict = |c: &attnc::runtime::device::BankConflict| {
        serde_json::json!({
            "line": c.line, "instruction": c.text, "accesses": c.accesses, "extra_wavefronts": c.extra_wavefronts,
        })
    };
    let launch = |r: &LaunchReport| {
        let opcodes: serde_json::Map<String, serde_json::Value> =
            r.counts.opcodes.iter().map(|(name, n)| (name.clone(), (*n).into())).collect();
        serde_json::json!({
            "launch": r.launch, "kernel": r.kernel, "blocks": r.blocks, "tasks": r.tasks, "threads": r.threads,
            "shared_bytes": r.counts.shared_bytes, "instructions": r.counts.steps, "opcodes": opcodes,
            "extra_wavefronts": r.counts.extra_wavefronts(),
            "bank_conflicts": r.counts.bank_conflicts.iter().map(conflict).collect::<Vec<_>>(),
        })
    };
    reports.iter().map(launch).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use attnc::runtime::device::{BankConflict, Report};

    #[test]
    fn everything_that_was_counted_is_told() {
        let text_of = "ld.shared.f32 %f1, [%r1]";
        let conflict = BankConflict { line: 17, text: text_of.into(), accesses: 4, extra_wavefronts: 124 };
        let counts = Report {
            steps: 99,
            opcodes: vec![("fma.rn.f32".into(), 64), ("ld.shared.f32".into(), 4)],
            bank_conflicts: vec![conflict],
            shared_bytes: 4096,
        };
        let (launch, kernel) = ("o.attend".into(), "k0".into());
        let report = LaunchReport { launch, kernel, blocks: 2, tasks: 31, threads: 128, counts };
        let told = text(std::slice::from_ref(&report));
        for part in ["o.attend", "2 for 31 tasks", "4096", "fma.rn.f32 64, ld.shared.f32 4", "124", text_of] {
            assert!(told.contains(part), "{part}: {told}");
        }
        let json = json(&[report]);
        assert_eq!(json[0]["opcodes"]["fma.rn.f32"], 64);
        assert_eq!(
            (&json[0]["extra_wavefronts"], &json[0]["bank_conflicts"][0]["line"]),
            (&124.into(), &17.into())
        );
    }
}
