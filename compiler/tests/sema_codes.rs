//! The page of every code holds an example that triggers it and a corrected one that does not.

mod sema_common;

use attn_compiler::diagnostic::{Code, SourceMap};
use attn_compiler::sema::{check, instantiate};
use sema_common::{key, rendered};

/// The text of a fenced block of this kind.
fn block(page: &str, fence: &str) -> Option<String> {
    let open = format!("```{fence}\n");
    let start = page.find(&open)? + open.len();
    let len = page[start..].find("```")?;
    Some(page[start..start + len].to_string())
}

/// The codes that checking, and planning without any size, gives for a text; `self.attn` is the text itself.
fn codes(text: &str) -> (Vec<Code>, String) {
    let mut map = SourceMap::default();
    let id = map.add("test.attn", text);
    let own = text.to_string();
    let mut resolver = |_: &str, path: &str| {
        if path == "self.attn" { Ok(own.clone()) } else { Err("not found".to_string()) }
    };
    let (checked, diagnostics) = check(&mut map, id, &mut resolver);
    let mut found: Vec<Code> = diagnostics.items().iter().map(|d| d.code).collect();
    let said = rendered(&map, &diagnostics);
    if !diagnostics.has_errors() {
        for kernel in &checked.kernels {
            let planned = instantiate(kernel, &key(&kernel.name, &[]));
            found.extend(planned.err().and_then(|e| e.diagnostic()).map(|d| d.code));
        }
    }
    (found, said)
}

#[test]
fn every_page_shows_an_error_and_its_cure() {
    let own = |c: &&Code| {
        let id = c.id();
        !id.starts_with("E00") && !id.starts_with("E08")
    };
    let mut n_pages = 0;
    for code in Code::ALL.iter().filter(own) {
        let page = code.explanation();
        let bad = block(page, "attn,fail").or_else(|| block(page, "attn,plan"));
        // Codes that depend on a target or on data show their example in words.
        let Some(bad) = bad else { continue };
        let good = block(page, "attn").unwrap_or_else(|| panic!("{} has no corrected example", code.id()));
        let (found, said) = codes(&bad);
        assert!(found.contains(code), "{} is not triggered by its example:\n{bad}\n{said}", code.id());
        let (found, said) = codes(&good);
        assert!(!found.contains(code), "{} is still triggered by its cure:\n{good}\n{said}", code.id());
        n_pages += 1;
    }
    assert!(n_pages >= 50, "only {n_pages} pages");
}

#[test]
fn cures_have_no_errors() {
    for code in Code::ALL {
        if let Some(good) = block(code.explanation(), "attn") {
            let mut map = SourceMap::default();
            let id = map.add("test.attn", good.as_str());
            let (_, diagnostics) = check(&mut map, id, &mut attn_compiler::sema::no_files);
            assert!(!diagnostics.has_errors(), "{}: {}", code.id(), rendered(&map, &diagnostics));
        }
    }
}
