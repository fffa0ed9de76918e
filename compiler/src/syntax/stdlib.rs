//! The standard library: `.attn` texts shipped inside the compiler.
//!
//! Comes in: the dotted path of a `use`. Goes out: the text, which `sema` loads like any other file under the
//! name `<std.mask>`. Nothing in it is privileged: an author could have written the same definitions.

/// Every module, as `use` names it.
pub const NAMES: [&str; 3] = ["std.mask", "std.score", "std.position"];

/// The text of a module; `None` for a path that is none of [`NAMES`].
pub fn source(path: &str) -> Option<&'static str> {
    match path {
        "std.mask" => Some(include_str!("../../std/mask.attn")),
        "std.score" => Some(include_str!("../../std/score.attn")),
        "std.position" => Some(include_str!("../../std/position.attn")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_a_text_and_nothing_else_has() {
        assert!(NAMES.iter().all(|name| source(name).is_some_and(|text| !text.is_empty())));
        assert_eq!(source("std.masks"), None);
    }
}
