//! What the pipeline tells while it works: times, and the texts that were asked for.
//!
//! Comes in: stages, through [`Observer`]. Goes out: a list of times, texts for standard error, numbered files.
//! What holds: a text is made only if somebody wants it.

use std::path::Path;
use std::time::Duration;

use attn_compiler::passes::PASSES;
use attn_compiler::pipeline::{Observer, Stage};

use super::fmt::write_whole;
use super::ui::Failure;

/// Every name that `--print-ir-after` takes, in order.
pub fn names() -> Vec<&'static str> {
    let before = [Stage::Front, Stage::AttnIr, Stage::Tabulate, Stage::Schedule, Stage::Lower];
    let passes = PASSES.iter().map(|p| Stage::Pass(p.name));
    let after = [Stage::Emit, Stage::Simt, Stage::Mlir, Stage::Ptx];
    before.into_iter().chain(passes).chain(after).map(Stage::name).collect()
}

/// One stage that ran.
struct Ran {
    stage: Stage,
    took: Duration,
    text: Option<String>,
}

/// An observer that remembers.
pub struct Stages {
    ran: Vec<Ran>,
    printed: Vec<String>,
    dumps: bool,
}

impl Observer for Stages {
    fn stage(&mut self, stage: Stage, took: Duration, text: &dyn Fn() -> String) {
        let text = (self.dumps || self.prints(stage)).then(text);
        self.ran.push(Ran { stage, took, text });
    }
}

impl Stages {
    /// Remembers the texts after the stages of these names (`all`: every one), or all of them to be dumped.
    pub fn new(printed: &[String], dumps: bool) -> Stages {
        Stages { ran: Vec::new(), printed: printed.to_vec(), dumps }
    }

    fn prints(&self, stage: Stage) -> bool {
        self.printed.iter().any(|name| name == "all" || name == stage.name())
    }

    /// Stages in order, and how long each took.
    pub fn times(&self) -> impl Iterator<Item = (Stage, Duration)> {
        self.ran.iter().map(|r| (r.stage, r.took))
    }

    /// The texts that were asked for, each under its stage's name.
    pub fn printed(&self) -> String {
        let wanted = self.ran.iter().filter(|r| self.prints(r.stage));
        let texts = wanted.filter_map(|r| {
            let text = r.text.as_ref()?.trim_end();
            Some(format!("// ----- after {} -----\n{text}\n", r.stage.name()))
        });
        texts.collect::<Vec<_>>().join("\n")
    }

    /// Writes every text to a numbered file. Errors: the directory or a file cannot be written.
    pub fn dump(&self, dir: &Path) -> Result<(), Failure> {
        let fail = |err| Failure::wrong(format!("cannot make {}: {err}", dir.display()));
        std::fs::create_dir_all(dir).map_err(fail)?;
        for (n, ran) in self.ran.iter().enumerate() {
            let extension = match ran.stage {
                Stage::Front => "attn",
                Stage::AttnIr | Stage::Tabulate => "attnir",
                Stage::Schedule => "schedule",
                Stage::Lower | Stage::Pass(_) => "tile",
                Stage::Emit => "asm",
                Stage::Simt => "simt",
                Stage::Mlir => "mlir",
                Stage::Ptx => "ptx",
            };
            let text = ran.text.as_deref().unwrap_or("");
            write_whole(&dir.join(format!("{n:02}-{}.{extension}", ran.stage.name())), text.as_bytes())?;
        }
        Ok(())
    }
}
