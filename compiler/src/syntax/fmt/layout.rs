//! From logical lines to text: spaces, columns, line breaks.
//!
//! Comes in: [`Line`]s. Goes out: the formatted text. Rules of spacing are in [`spaced`]; a line that is too wide
//! is broken before its loosest operator outside brackets first, then further in.

use super::{Line, Role, WIDTH};
use crate::syntax::token::{Token, TokenKind};

/// An `=` further right than this is no column to align with.
const MAX_COLUMN: usize = 30;

/// The whole text.
pub(super) fn render(lines: &[Line]) -> String {
    let pads = pads(lines);
    let mut out = String::new();
    for (line, pad) in lines.iter().zip(pads) {
        if line.blank_before {
            out.push('\n');
        }
        render_line(line, pad, &mut out);
    }
    out
}

/// A token with what stands before it.
struct Piece<'a> {
    token: Token<'a>,
    /// Spaces, if no break comes before it.
    n_spaces: usize,
    /// Where the line may be broken: smaller breaks first.
    rank: Option<usize>,
    /// A break that must be: around comments, and where the author put one that is allowed.
    is_broken: bool,
}

fn width(text: &str) -> usize {
    text.chars().count()
}

fn render_line(line: &Line, pad: usize, out: &mut String) {
    let pieces = pieces(line, pad);
    let indent = line.depth * 2;
    let further = continuation(line, &pieces, indent);
    let mut rest = &pieces[..];
    let mut column = indent;
    while !rest.is_empty() {
        let end = fitting(rest, column);
        out.push_str(&" ".repeat(column));
        for (n, piece) in rest[..end].iter().enumerate() {
            out.push_str(&" ".repeat(if n == 0 { 0 } else { piece.n_spaces }));
            out.push_str(piece.token.text);
        }
        out.push('\n');
        rest = &rest[end..];
        column = further;
    }
}

/// How many pieces go on a line that starts at `column`: all up to the next break that must be if they fit, else
/// those up to the last break of the loosest rank that fits, else those up to the first break there is.
/// Comments may stick out.
fn fitting(pieces: &[Piece], column: usize) -> usize {
    let mut best: Option<(usize, usize)> = None;
    let mut at = column;
    let mut is_too_wide = false;
    for (n, piece) in pieces.iter().enumerate() {
        if n > 0 && piece.is_broken {
            return match best {
                Some((_, end)) if is_too_wide => end,
                _ => n,
            };
        }
        if let (Some(rank), true) = (piece.rank, n > 0 && at <= WIDTH) {
            if best.is_none_or(|(known, _)| rank <= known) {
                best = Some((rank, n));
            }
        } else if piece.rank.is_some() && n > 0 && best.is_none() {
            return n;
        }
        at += if n == 0 { 0 } else { piece.n_spaces } + width(piece.token.text);
        is_too_wide |= at > WIDTH && piece.token.kind != TokenKind::Comment;
        if let (Some((_, end)), true) = (best, is_too_wide) {
            return end;
        }
    }
    pieces.len()
}

/// The column at which the further lines of a clause begin: under its `=`, or four spaces in.
fn continuation(line: &Line, pieces: &[Piece], indent: usize) -> usize {
    let is_aligned = matches!(line.role, Role::Equation | Role::Def(_) | Role::Other);
    let (mut column, mut depth) = (indent, 0usize);
    for (n, piece) in pieces.iter().enumerate() {
        column += if n == 0 { 0 } else { piece.n_spaces };
        if !is_aligned || column > MAX_COLUMN {
            break;
        }
        if piece.token.is("=") && depth == 0 {
            return column;
        }
        depth =
            (depth + usize::from(piece.token.is_open())).saturating_sub(usize::from(piece.token.is_close()));
        column += width(piece.token.text);
    }
    indent + 4
}

/// Index of the token of a line that is put into one column with those of its neighbours.
fn column_token(line: &Line) -> Option<usize> {
    let mark = match line.role {
        Role::Equation | Role::Def(_) => "=",
        Role::Tensor => ":",
        Role::Comment | Role::Header | Role::Other => return None,
    };
    let mut depth = 0usize;
    for (n, token) in line.tokens.iter().enumerate() {
        if token.kind == TokenKind::Comment {
            return None;
        }
        if depth == 0 && token.is(mark) {
            return Some(n);
        }
        depth = (depth + usize::from(token.is_open())).saturating_sub(usize::from(token.is_close()));
    }
    None
}

/// Extra spaces before the column token of each line.
fn pads(lines: &[Line]) -> Vec<usize> {
    let mut out = vec![0; lines.len()];
    let mut start = 0;
    while start < lines.len() {
        let joins =
            |l: &Line| l.role == lines[start].role && l.depth == lines[start].depth && !l.blank_before;
        let len = 1 + lines[start + 1..].iter().take_while(|l| joins(l)).count();
        let run = &lines[start..start + len];
        let widths: Vec<Option<usize>> = run.iter().map(lead_width).collect();
        let widest = widths.iter().flatten().copied().filter(|w| *w <= MAX_COLUMN).max().unwrap_or(0);
        for (n, own) in widths.iter().enumerate() {
            out[start + n] = own.map_or(0, |own| widest.saturating_sub(own));
        }
        start += len;
    }
    out
}

/// Width of what stands before the column token.
fn lead_width(line: &Line) -> Option<usize> {
    let n = column_token(line)?;
    let pieces = pieces(line, 0);
    Some(pieces[..n].iter().map(|p| p.n_spaces + width(p.token.text)).sum())
}

fn pieces<'a>(line: &Line<'a>, pad: usize) -> Vec<Piece<'a>> {
    let column = column_token(line);
    let mut out: Vec<Piece> = Vec::with_capacity(line.tokens.len());
    let (mut depth, mut n_questions) = (0usize, 0usize);
    for (n, token) in line.tokens.iter().enumerate() {
        depth = depth.saturating_sub(usize::from(token.is_close()));
        let is_ternary = token.is("?") || token.is(":") && n_questions > 0;
        n_questions = if token.is("?") { n_questions + 1 } else { n_questions - usize::from(is_ternary) };
        let rank = break_rank(line, column, n, depth, is_ternary);
        let after_comment = n > 0 && line.tokens[n - 1].kind == TokenKind::Comment;
        let is_comment = token.kind == TokenKind::Comment;
        let is_broken = after_comment || n > 0 && token.n_newlines > 0 && (rank.is_some() || is_comment);
        let n_spaces = if n == 0 { 0 } else { spaces(line, n) } + if column == Some(n) { pad } else { 0 };
        out.push(Piece { token: *token, n_spaces, rank, is_broken });
        depth += usize::from(token.is_open());
    }
    out
}

/// May the line be broken before token `n` at a bracket depth, and how willingly (0 first)?
fn break_rank(line: &Line, column: Option<usize>, n: usize, depth: usize, is_ternary: bool) -> Option<usize> {
    let (before, token) = (line.tokens.get(n.checked_sub(1)?)?, &line.tokens[n]);
    let class = if before.is(",") && token.kind != TokenKind::Comment {
        let is_list_of_names = match line.role {
            Role::Tensor => depth == 0,
            Role::Def(_) => column.is_some_and(|equals| n < equals),
            _ => false,
        };
        if is_list_of_names { 90 } else { 0 }
    } else if before.is("=") && depth == 0 && matches!(line.role, Role::Def(_)) {
        15
    } else if !before.ends_operand() {
        return None;
    } else {
        match (token.text, line.role) {
            ("|", _) => 1,
            ("&", _) => 2,
            ("?" | ":", _) if is_ternary => 3,
            ("+" | "-", _) => 4,
            ("at", Role::Other) if depth == 0 => 0,
            (_, Role::Tensor) if depth == 0 && token.kind == TokenKind::Word && before.is_close() => 0,
            _ => return None,
        }
    };
    Some(depth * 10 + class)
}

/// `window: int` in the head of a kernel.
fn is_param_colon(line: &Line, n: usize) -> bool {
    let is_head = matches!(line.role, Role::Header | Role::Def(_));
    let lead = n.checked_sub(2).map(|m| &line.tokens[m]);
    is_head && line.tokens[n].is(":") && lead.is_some_and(|t| t.is("(") || t.is(",") || t.is_word("static"))
}

fn spaces(line: &Line, n: usize) -> usize {
    let (before, token) = (&line.tokens[n - 1], &line.tokens[n]);
    if token.kind == TokenKind::Comment {
        return 2;
    }
    usize::from(spaced(line, n, before, token))
}

/// Is there a space between token `n` and the one before?
fn spaced(line: &Line, n: usize, before: &Token, token: &Token) -> bool {
    let is_path = line.tokens[0].is_word("use") && (before.is(".") || token.is("."));
    if is_path || token.is(",") || token.is(")") || token.is("]") || before.is("(") || before.is("[") {
        return false;
    }
    if before.is("..") || token.is("..") || before.is("!") || before.is("{") && token.is("}") {
        return false;
    }
    if is_param_colon(line, n) {
        return false;
    }
    if before.is("-") {
        let is_prefix = n < 2 || !line.tokens[n - 2].ends_operand();
        return !is_prefix;
    }
    if token.is("(") {
        return !before.ends_operand() || is_list_keyword(line, n - 1);
    }
    if token.is("[") {
        return !before.ends_operand();
    }
    true
}

/// Words after which a `(` opens a list of the clause, not the arguments of a call.
fn is_list_keyword(line: &Line, n: usize) -> bool {
    let word = line.tokens[n].text;
    match line.role {
        Role::Tensor => matches!(word, "paged" | "layout" | "per"),
        Role::Other => n == 0 && matches!(word, "dropout" | "test"),
        _ => false,
    }
}
