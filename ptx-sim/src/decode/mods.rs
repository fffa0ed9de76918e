//! The modifiers of an opcode.
//!
//! Comes in: the parts of an opcode after its name. Goes out: the ones that an instruction knows, taken one by one. What
//! holds: [`Mods::finish`] refuses what nobody took, so that no modifier is ever skipped.

use crate::isa::{Rnd, Sem, Ty};

/// Parts that are still to be taken.
pub(crate) struct Mods<'a> {
    parts: Vec<&'a str>,
}

impl<'a> Mods<'a> {
    pub fn new(parts: &'a [String]) -> Self {
        Self { parts: parts.iter().map(String::as_str).collect() }
    }

    /// Takes `word` if it is there.
    pub fn flag(&mut self, word: &str) -> bool {
        match self.parts.iter().position(|p| *p == word) {
            Some(n) => {
                self.parts.remove(n);
                true
            }
            None => false,
        }
    }

    /// Takes all of `words` that are there: hints that change nothing here.
    pub fn hints(&mut self, words: &[&str]) {
        self.parts.retain(|p| !words.contains(p));
    }

    /// Takes the first part that the table knows.
    pub fn pick<T: Copy>(&mut self, table: &[(&str, T)]) -> Option<T> {
        for n in 0..self.parts.len() {
            if let Some((_, value)) = table.iter().find(|(word, _)| *word == self.parts[n]) {
                self.parts.remove(n);
                return Some(*value);
            }
        }
        None
    }

    /// Takes the next part whatever it is.
    pub fn next(&mut self) -> Option<&'a str> {
        if self.parts.is_empty() { None } else { Some(self.parts.remove(0)) }
    }

    /// Takes the first part that is a type.
    pub fn ty(&mut self) -> Result<Ty, String> {
        match self.parts.iter().position(|p| Ty::parse(p).is_some()) {
            Some(n) => Ok(Ty::parse(self.parts.remove(n)).expect("just parsed")),
            None => Err("a type is missing".into()),
        }
    }

    /// A rounding of floating-point results.
    pub fn rnd(&mut self) -> Option<Rnd> {
        self.pick(&[
            ("rn", Rnd::Nearest),
            ("rz", Rnd::Zero),
            ("rm", Rnd::Down),
            ("rp", Rnd::Up),
            ("rna", Rnd::Away),
        ])
    }

    /// The ordering of a memory access; scopes are taken with it.
    pub fn sem(&mut self) -> Sem {
        let sem = self.pick(&[
            ("weak", Sem::Weak),
            ("volatile", Sem::Relaxed),
            ("relaxed", Sem::Relaxed),
            ("acquire", Sem::Acquire),
            ("release", Sem::Release),
            ("acq_rel", Sem::AcqRel),
        ]);
        self.hints(&["cta", "cluster", "gpu", "sys"]);
        sem.unwrap_or(Sem::Weak)
    }

    /// Cache operators and eviction hints.
    pub fn cache(&mut self) {
        self.hints(&[
            "ca",
            "cg",
            "cs",
            "lu",
            "cv",
            "wb",
            "wt",
            "nc",
            "L1::evict_normal",
            "L1::evict_unchanged",
            "L1::evict_first",
            "L1::evict_last",
            "L1::no_allocate",
            "L2::64B",
            "L2::128B",
            "L2::256B",
            "L2::evict_normal",
            "L2::evict_first",
            "L2::evict_last",
        ]);
    }

    /// Refuses what is left.
    pub fn finish(self) -> Result<(), String> {
        match self.parts.first() {
            None => Ok(()),
            Some(part) => Err(format!("modifier `.{part}` is not known here")),
        }
    }
}
