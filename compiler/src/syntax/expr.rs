//! Expressions: pest pairs to [`Expr`] by precedence climbing (pest's Pratt parser).

use std::sync::LazyLock;

use pest::iterators::Pair;
use pest::pratt_parser::{Assoc, Op, PrattParser};

use super::ast::*;
use super::parse::{Cx, Rule};
use crate::diagnostic::{Code, Diagnostic, Diagnostics};

/// Loosest first, as in language.md.
static PRATT: LazyLock<PrattParser<Rule>> = LazyLock::new(|| {
    let left = |rule| Op::infix(rule, Assoc::Left);
    PrattParser::new()
        .op(Op::infix(Rule::ternary, Assoc::Right))
        .op(left(Rule::or))
        .op(left(Rule::and))
        .op(Op::prefix(Rule::not))
        .op(left(Rule::le)
            | left(Rule::ge)
            | left(Rule::eq)
            | left(Rule::ne)
            | left(Rule::lt)
            | left(Rule::gt)
            | Op::postfix(Rule::within))
        .op(left(Rule::add) | left(Rule::sub))
        .op(left(Rule::mul) | left(Rule::div) | left(Rule::idiv) | left(Rule::mod_) | left(Rule::matmul))
        .op(Op::prefix(Rule::neg))
        .op(Op::infix(Rule::pow, Assoc::Right))
        .op(Op::postfix(Rule::index))
});

/// One expression.
pub(super) fn expr(cx: Cx, pair: Pair<Rule>, out: &mut Diagnostics) -> Expr {
    if pair.as_rule() != Rule::expr {
        return primary(cx, pair, out);
    }
    let out = std::cell::RefCell::new(out);
    PRATT
        .map_primary(|p| primary(cx, p, &mut out.borrow_mut()))
        .map_prefix(|op, x| {
            let span = cx.span(&op).to(x.span);
            let op = if op.as_rule() == Rule::neg { PrefixOp::Neg } else { PrefixOp::Not };
            Spanned { node: ExprKind::Prefix { op, operand: Box::new(x) }, span }
        })
        .map_postfix(|x, op| postfix(cx, x, op, &mut out.borrow_mut()))
        .map_infix(|a, op, b| infix(cx, a, op, b, &mut out.borrow_mut()))
        .parse(pair.into_inner())
}

fn primary(cx: Cx, pair: Pair<Rule>, out: &mut Diagnostics) -> Expr {
    let span = cx.span(&pair);
    let node = match pair.as_rule() {
        Rule::num => ExprKind::Number(number(cx, &pair, out)),
        Rule::str => ExprKind::Str(pair.as_str().trim_matches('"').to_string()),
        Rule::call => {
            let mut kids = pair.into_inner();
            let name = kids.next().map_or(Spanned { node: String::new(), span }, |p| cx.name(&p));
            let args = kids.next().map_or(vec![], |p| args(cx, p, out));
            ExprKind::Call { name, args }
        }
        Rule::paren => match pair.into_inner().next() {
            Some(p) => ExprKind::Paren(Box::new(expr(cx, p, out))),
            None => ExprKind::List(vec![]),
        },
        Rule::list => ExprKind::List(pair.into_inner().map(|p| expr(cx, p, out)).collect()),
        Rule::expr => return expr(cx, pair, out),
        _ => ExprKind::Name(pair.as_str().to_string()),
    };
    Spanned { node, span }
}

/// The arguments of a call.
pub(super) fn args(cx: Cx, pair: Pair<Rule>, out: &mut Diagnostics) -> Vec<Arg> {
    pair.into_inner()
        .map(|p| {
            let span = cx.span(&p);
            let mut arg = Arg { name: None, value: Spanned { node: ExprKind::List(vec![]), span } };
            for k in p.into_inner() {
                match k.as_rule() {
                    Rule::arg_name => arg.name = k.into_inner().next().map(|n| cx.name(&n)),
                    _ => arg.value = expr(cx, k, out),
                }
            }
            arg
        })
        .collect()
}

fn postfix(cx: Cx, x: Expr, op: Pair<Rule>, out: &mut Diagnostics) -> Expr {
    let span = x.span.to(cx.span(&op));
    if op.as_rule() == Rule::index {
        let index = op.into_inner().map(|p| expr(cx, p, out)).collect();
        return Spanned { node: ExprKind::Index { base: Box::new(x), index }, span };
    }
    refuse_chain_in(&x, span, out);
    let (mut lo_included, mut hi_included) = (true, true);
    let mut ends = Vec::new();
    for p in op.into_inner() {
        match p.as_rule() {
            Rule::open => lo_included = p.as_str() == "[",
            Rule::close => hi_included = p.as_str() == "]",
            Rule::IN => {}
            _ => ends.push(expr(cx, p, out)),
        }
    }
    let hi = ends.pop().unwrap_or_else(|| x.clone());
    let lo = ends.pop().unwrap_or_else(|| x.clone());
    let interval = Box::new(Interval { lo_included, lo, hi, hi_included });
    Spanned { node: ExprKind::In { value: Box::new(x), interval }, span }
}

fn infix(cx: Cx, a: Expr, op: Pair<Rule>, b: Expr, out: &mut Diagnostics) -> Expr {
    let span = a.span.to(b.span);
    if op.as_rule() == Rule::ternary {
        let then = op.into_inner().next().map_or_else(|| b.clone(), |p| expr(cx, p, out));
        let node = ExprKind::Ternary { cond: Box::new(a), then: Box::new(then), otherwise: Box::new(b) };
        return Spanned { node, span };
    }
    let op = infix_op(op.as_rule());
    if op.is_comparison() {
        refuse_chain(cx, &a, &b, out);
    }
    Spanned { node: ExprKind::Infix { op, left: Box::new(a), right: Box::new(b) }, span }
}

/// `a < b < c`: refused, with the form of two comparisons.
fn refuse_chain(cx: Cx, a: &Expr, b: &Expr, out: &mut Diagnostics) {
    let span = a.span.to(b.span);
    let message = "comparisons cannot be chained";
    match &a.node {
        ExprKind::Infix { op: first, right: middle, .. } if first.is_comparison() => {
            let text = cx.slice(middle.span).to_string();
            out.push(
                Diagnostic::error(Code::ComparisonChain, span, message)
                    .label("read from left to right, this compares a truth value")
                    .suggest(middle.span, format!("{text} & {text}"), "compare twice"),
            );
        }
        ExprKind::In { .. } => out.push(
            Diagnostic::error(Code::ComparisonChain, span, message)
                .label("`in` is a comparison too")
                .help("join the two with `&`"),
        ),
        _ => {}
    }
}

/// `a < b in [c, d]`, `a in [b, c] in [d, e]`: refused.
fn refuse_chain_in(x: &Expr, span: crate::diagnostic::Span, out: &mut Diagnostics) {
    let is_comparison = match &x.node {
        ExprKind::Infix { op, .. } => op.is_comparison(),
        node => matches!(node, ExprKind::In { .. }),
    };
    if is_comparison {
        out.push(
            Diagnostic::error(Code::ComparisonChain, span, "comparisons cannot be chained")
                .label("`in` is a comparison too")
                .help("join the two with `&`"),
        );
    }
}

fn infix_op(rule: Rule) -> InfixOp {
    match rule {
        Rule::or => InfixOp::Or,
        Rule::and => InfixOp::And,
        Rule::le => InfixOp::Le,
        Rule::ge => InfixOp::Ge,
        Rule::eq => InfixOp::Eq,
        Rule::ne => InfixOp::Ne,
        Rule::lt => InfixOp::Lt,
        Rule::gt => InfixOp::Gt,
        Rule::add => InfixOp::Add,
        Rule::sub => InfixOp::Sub,
        Rule::mul => InfixOp::Mul,
        Rule::div => InfixOp::Div,
        Rule::idiv => InfixOp::IDiv,
        Rule::mod_ => InfixOp::Mod,
        Rule::matmul => InfixOp::MatMul,
        _ => InfixOp::Pow,
    }
}

fn number(cx: Cx, pair: &Pair<Rule>, out: &mut Diagnostics) -> Number {
    let text = pair.as_str();
    number_value(text).unwrap_or_else(|| {
        out.push(
            Diagnostic::error(Code::BadNumber, cx.span(pair), format!("`{text}` does not fit"))
                .label("integers have 64 bits, floats must be finite"),
        );
        Number::Int(0)
    })
}

/// The value of a literal: an int if it has neither point nor exponent, or if its suffix makes it whole (`1.5K` is
/// 1500); else the nearest float to what is written. `None` if it fits neither.
fn number_value(text: &str) -> Option<Number> {
    let suffixes = [("Ki", 1024, 0), ("Mi", 1 << 20, 0), ("K", 1000, 3), ("M", 1_000_000, 6)];
    let (digits, factor, decimals) = suffixes
        .iter()
        .find_map(|(s, factor, decimals)| text.strip_suffix(s).map(|d| (d, *factor, *decimals)))
        .unwrap_or((text, 1i64, 0i64));
    if !digits.contains(['.', 'e']) {
        return digits.parse::<i64>().ok()?.checked_mul(factor).map(Number::Int);
    }
    if let Some(whole) = (factor > 1).then(|| scaled(digits, factor)).flatten() {
        return Some(Number::Int(whole));
    }
    // A power of ten goes into the exponent before rounding, a power of two scales without rounding.
    let (mantissa, exponent) = digits.split_once('e').unwrap_or((digits, "0"));
    let exponent = exponent.parse::<i64>().ok()?.checked_add(decimals)?;
    let value: f64 = format!("{mantissa}e{exponent}").parse().ok()?;
    let value = if decimals == 0 { value * factor as f64 } else { value };
    value.is_finite().then_some(Number::Float(value))
}

/// `digits` times `factor`, if that is a whole number of 64 bits; exact.
fn scaled(digits: &str, factor: i64) -> Option<i64> {
    if digits.contains('e') {
        return None;
    }
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let fraction = fraction.trim_end_matches('0');
    let shift = 10i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let all = format!("{whole}{fraction}").parse::<i128>().ok()?.checked_mul(i128::from(factor))?;
    (all % shift == 0).then(|| i64::try_from(all / shift).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_have_exact_values() {
        let cases = [
            ("0", Number::Int(0)),
            ("10K", Number::Int(10_000)),
            ("4Ki", Number::Int(4096)),
            ("2M", Number::Int(2_000_000)),
            ("1Mi", Number::Int(1 << 20)),
            ("1.5K", Number::Int(1500)),
            ("0.5Ki", Number::Int(512)),
            ("1.0", Number::Float(1.0)),
            ("1e-5", Number::Float(1e-5)),
            ("1.00055K", Number::Float(1000.55)),
            ("0.1Ki", Number::Float(102.4)),
            ("1e3K", Number::Float(1e6)),
            ("9223372036854775807", Number::Int(i64::MAX)),
        ];
        for (text, value) in cases {
            assert_eq!(number_value(text), Some(value), "{text}");
        }
        for text in ["9223372036854775808", "9223372036854775807K", "1e400", "1e99999999999999999999"] {
            assert_eq!(number_value(text), None, "{text}");
        }
    }
}
