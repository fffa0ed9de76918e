//! Which CPU this is, for measurements that hold on this model only.
//!
//! Comes in: `/proc/cpuinfo` and the facts of the host. Goes out: one line of printable ASCII without quotes. What
//! holds: the same CPU with the same instruction set and caches gives the same line; where the host hides its model, the
//! instruction set and caches alone tell CPUs apart. Not here: frequencies, microcode, the number of cores.

use std::sync::OnceLock;

use attn_compiler::target::Target;

use super::facts::host_facts;
use crate::error::RuntimeError;

/// Fields of `/proc/cpuinfo`, on x86 and on Arm, and the word before each.
const FIELDS: [(&str, &str); 7] = [
    ("vendor_id", ""),
    ("cpu family", "family "),
    ("model", "model "),
    ("model name", ""),
    ("CPU implementer", "implementer "),
    ("CPU architecture", "architecture "),
    ("CPU part", "part "),
];

/// Model, instruction set and caches of the host. Errors: an architecture for which no code can be made.
pub fn host_model() -> Result<String, RuntimeError> {
    static MODEL: OnceLock<String> = OnceLock::new();
    let target = Target::Cpu(host_facts()?).to_string();
    let model = MODEL.get_or_init(|| model(&std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default()));
    Ok(format!("{model}; {target}"))
}

/// The model of the first processor of a `/proc/cpuinfo`.
fn model(cpuinfo: &str) -> String {
    let first = cpuinfo.split("\n\n").next().unwrap_or_default();
    let value = |name: &str| {
        let mut fields = first.lines().filter_map(|line| line.split_once(':'));
        fields.find(|(field, _)| field.trim() == name).map(|(_, value)| value.trim().to_string())
    };
    let known = FIELDS.iter().filter_map(|(name, word)| Some(format!("{word}{}", value(name)?)));
    let text = known.collect::<Vec<_>>().join(" ");
    let printable = |c: char| (c.is_ascii_graphic() && c != '"' && c != '\\') || c == ' ';
    match text.chars().filter(|c| printable(*c)).collect::<String>().trim() {
        "" => "unknown model".to_string(),
        text => text.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_are_read() {
        let x86 = "processor\t: 0\nvendor_id\t: AuthenticAMD\ncpu family\t: 26\nmodel\t\t: 2\n\
                   model name\t: AMD \"EPYC\" \\\u{e9}\n\nprocessor\t: 1\nvendor_id\t: Other\n";
        assert_eq!(model(x86), "AuthenticAMD family 26 model 2 AMD EPYC");
        let arm = "processor : 0\nCPU implementer : 0x41\nCPU architecture: 8\nCPU part : 0xd40\n";
        assert_eq!(model(arm), "implementer 0x41 architecture 8 part 0xd40");
        assert_eq!(model(""), "unknown model");
    }

    #[test]
    fn the_host_has_one() {
        let model = host_model().unwrap();
        assert!(model.contains("; cpu "), "{model}");
        assert_eq!(model, host_model().unwrap());
    }
}
