//! Prints diagnostics: for people (annotate-snippets), and as one JSON object a line, shaped as rustc's.

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Group, Level, Patch, Renderer, Snippet};
use serde_json::json;

use super::{Diagnostic, Severity, SourceMap, Span};

/// How to print for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    /// ANSI colours.
    pub color: bool,
    /// Only ASCII in carets and borders, for snapshots and old terminals.
    pub ascii: bool,
}

/// One diagnostic for people, ending in a newline.
pub fn human(map: &SourceMap, d: &Diagnostic, style: Style) -> String {
    let renderer = if style.color { Renderer::styled() } else { Renderer::plain() };
    let decor = if style.ascii { DecorStyle::Ascii } else { DecorStyle::Unicode };
    let level = match d.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let mut main = Group::with_title(level.primary_title(&d.message).id(d.code.id()));
    for source in sources(d) {
        let file = map.file(source);
        let mut snippet = Snippet::source(&file.text).path(&file.name);
        for label in d.labels.iter().filter(|l| l.span.source == source) {
            let kind = if label.primary { AnnotationKind::Primary } else { AnnotationKind::Context };
            let annotation = kind.span(clip(map, label.span));
            snippet = snippet.annotation(if label.text.is_empty() {
                annotation
            } else {
                annotation.label(&label.text)
            });
        }
        main = main.element(snippet);
    }
    for note in &d.notes {
        main = main.element(Level::NOTE.message(note));
    }
    for help in &d.helps {
        main = main.element(Level::HELP.message(help));
    }
    let mut groups = vec![main];
    for s in &d.suggestions {
        let file = map.file(s.span.source);
        let patch = Patch::new(clip(map, s.span), s.replacement.as_str());
        groups.push(
            Level::HELP
                .secondary_title(&s.message)
                .element(Snippet::source(&file.text).path(&file.name).patch(patch)),
        );
    }
    format!("{}\n", renderer.decor_style(decor).render(&groups))
}

fn sources(d: &Diagnostic) -> Vec<super::SourceId> {
    let mut out = Vec::new();
    for label in &d.labels {
        if !out.contains(&label.span.source) {
            out.push(label.span.source);
        }
    }
    out
}

/// A span kept inside its file and on character boundaries.
fn clip(map: &SourceMap, span: Span) -> std::ops::Range<usize> {
    let text = &map.file(span.source).text;
    let floor = |mut at: usize| {
        at = at.min(text.len());
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        at
    };
    let start = floor(span.start);
    start..floor(span.end).max(start)
}

/// One diagnostic as a JSON object on one line, shaped as rustc's `--error-format=json`.
pub fn json(map: &SourceMap, d: &Diagnostic) -> String {
    let span = |s: Span, label: &str, primary: bool, replacement: Option<&str>| {
        let text = &map.file(s.source).text;
        let (line_start, column_start) = line_column(text, s.start);
        let (line_end, column_end) = line_column(text, s.end);
        json!({
            "file_name": map.file(s.source).name, "byte_start": s.start, "byte_end": s.end,
            "line_start": line_start, "line_end": line_end, "column_start": column_start, "column_end": column_end,
            "is_primary": primary, "label": label, "suggested_replacement": replacement,
        })
    };
    let child = |level: &str, message: &str, spans: Vec<serde_json::Value>| json!({ "message": message, "code": null, "level": level, "spans": spans, "children": [] });
    let mut children: Vec<_> = d.notes.iter().map(|n| child("note", n, vec![])).collect();
    children.extend(d.helps.iter().map(|h| child("help", h, vec![])));
    children.extend(
        d.suggestions
            .iter()
            .map(|s| child("help", &s.message, vec![span(s.span, "", true, Some(&s.replacement))])),
    );
    let level = match d.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    };
    let spans: Vec<_> = d.labels.iter().map(|l| span(l.span, &l.text, l.primary, None)).collect();
    json!({
        "$message_type": "diagnostic", "message": d.message,
        "code": { "code": d.code.id(), "explanation": d.code.explanation() },
        "level": level, "spans": spans, "children": children,
        "rendered": human(map, d, Style { color: false, ascii: true }),
    })
    .to_string()
}

/// Line and column of a byte offset, from 1; columns count characters.
pub fn line_column(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |n| n + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnostic::{Code, SourceId};

    fn sample() -> (SourceMap, Diagnostic) {
        let mut map = SourceMap::default();
        let id = map.add("a.attn", "// é\nmask f() = j && i\n");
        let span = |start, end| Span { source: id, start, end };
        let d = Diagnostic::error(Code::ForeignOperator, span(19, 21), "there is no operator `&&`")
            .label("both must hold: `&`")
            .context(span(6, 10), "in this definition")
            .note("a fact")
            .help("an advice")
            .suggest(span(19, 21), "&", "write `&`");
        (map, d)
    }

    #[test]
    fn people_see_code_place_carets_and_the_fix() {
        let (map, d) = sample();
        let plain = human(&map, &d, Style { color: false, ascii: true });
        let want = "error[E0007]: there is no operator `&&`";
        assert!(plain.starts_with(want), "{plain}");
        for part in ["--> a.attn:2:14", "^^ both must hold: `&`", "| in this definition", "note: a fact"] {
            assert!(plain.contains(part), "{part} is missing in\n{plain}");
        }
        assert!(plain.is_ascii() || plain.contains('é'), "decor is ASCII: {plain}");
        assert!(plain.contains("help: an advice") && plain.contains("mask f() = j & i"), "{plain}");
        let colored = human(&map, &d, Style { color: true, ascii: false });
        assert!(colored.contains('\u{1b}') && !plain.contains('\u{1b}'));
    }

    #[test]
    fn machines_get_one_object_on_one_line() {
        let (map, d) = sample();
        let line = json(&map, &d);
        assert!(!line.contains('\n'));
        let value: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(value["code"]["code"], "E0007");
        assert_eq!(value["level"], "error");
        assert_eq!(value["spans"][0]["line_start"], 2);
        assert_eq!(value["spans"][0]["column_start"], 14);
        assert_eq!(value["spans"][0]["byte_start"], 19);
        assert_eq!(value["children"].as_array().map(Vec::len), Some(3));
        assert_eq!(value["children"][2]["spans"][0]["suggested_replacement"], "&");
        assert!(value["rendered"].as_str().is_some_and(|r| r.contains("^^")));
    }

    #[test]
    fn spans_outside_of_the_text_are_clipped() {
        let mut map = SourceMap::default();
        let source = map.add("a.attn", "é");
        for (start, end) in [(0, 0), (1, 2), (2, 2), (5, 9), (1, 0)] {
            let d = Diagnostic::error(Code::Syntax, Span { source, start, end }, "m");
            assert!(!human(&map, &d, Style { color: false, ascii: true }).is_empty());
            assert!(json(&map, &d).contains("E0001"));
        }
        assert_eq!(source, SourceId(0));
    }
}
