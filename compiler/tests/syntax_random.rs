//! Random trees: what is printed reads back as the same tree, however it is spaced and commented, and formatting
//! changes nothing but the spacing.

use attn_compiler::diagnostic::{SourceId, SourceMap, Span};
use attn_compiler::syntax::ast::*;
use attn_compiler::syntax::{format, parse, print};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

fn spanned<T>(node: T) -> Spanned<T> {
    Spanned { node, span: Span { source: SourceId(0), start: 0, end: 0 } }
}

fn place() -> Place {
    Place(spanned(()).span)
}

/// Names; among them words that are keywords elsewhere.
fn word() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-zA-Z_][a-z0-9_]{0,3}_",
        prop::sample::select(vec![
            "score", "mask", "weight", "i", "j", "Hq", "true", "divide", "inner", "used"
        ])
        .prop_map(str::to_string),
    ]
}

fn name() -> impl Strategy<Value = Name> {
    word().prop_map(spanned)
}

/// Names with which neither a clause nor an attribute begins.
fn fresh() -> impl Strategy<Value = Name> {
    "[a-z][a-z0-9]{0,3}_".prop_map(spanned)
}

fn names() -> impl Strategy<Value = Vec<Name>> {
    vec(name(), 1..4)
}

fn number() -> impl Strategy<Value = Number> {
    prop_oneof![
        (0..=i64::MAX).prop_map(Number::Int),
        (0..70_000i64).prop_map(Number::Int),
        (0.0..1e300f64).prop_map(Number::Float),
        prop::num::f64::POSITIVE.prop_filter("finite", |x| x.is_finite()).prop_map(Number::Float),
    ]
}

fn args(value: impl Strategy<Value = Expr> + 'static) -> impl Strategy<Value = Vec<Arg>> {
    vec((option::of(name()), value).prop_map(|(name, value)| Arg { name, value }), 0..4)
}

const OPS: [InfixOp; 16] = {
    use InfixOp::*;
    [Or, And, Eq, Ne, Lt, Le, Gt, Ge, Add, Sub, Mul, Div, IDiv, Mod, MatMul, Pow]
};

/// Any tree, also such as need parentheses that they lack.
fn expr() -> impl Strategy<Value = Expr> + Clone {
    let leaf = prop_oneof![
        number().prop_map(ExprKind::Number),
        word().prop_map(ExprKind::Name),
        "[a-z/ .]{0,5}".prop_map(ExprKind::Str),
    ];
    leaf.prop_map(spanned).prop_recursive(5, 40, 4, |inner| {
        let boxed = inner.clone().prop_map(Box::new);
        let interval = (any::<bool>(), inner.clone(), inner.clone(), any::<bool>()).prop_map(
            |(lo_included, lo, hi, hi_included)| Box::new(Interval { lo_included, lo, hi, hi_included }),
        );
        prop_oneof![
            4 => (prop::sample::select(OPS.to_vec()), boxed.clone(), boxed.clone())
                .prop_map(|(op, left, right)| ExprKind::Infix { op, left, right }),
            2 => (prop::sample::select(vec![PrefixOp::Neg, PrefixOp::Not]), boxed.clone())
                .prop_map(|(op, operand)| ExprKind::Prefix { op, operand }),
            1 => (name(), args(inner.clone())).prop_map(|(name, args)| ExprKind::Call { name, args }),
            1 => (boxed.clone(), vec(inner.clone(), 1..3))
                .prop_map(|(base, index)| ExprKind::Index { base, index }),
            1 => vec(inner.clone(), 0..3).prop_map(ExprKind::List),
            1 => (boxed.clone(), interval).prop_map(|(value, interval)| ExprKind::In { value, interval }),
            1 => (boxed.clone(), boxed.clone(), boxed.clone())
                .prop_map(|(cond, then, otherwise)| ExprKind::Ternary { cond, then, otherwise }),
            1 => boxed.prop_map(ExprKind::Paren),
        ]
        .prop_map(spanned)
    })
}

/// A tree with all the parentheses that it needs: one that the parser made.
fn closed() -> impl Strategy<Value = Expr> + Clone {
    expr().prop_map(|e| read_expr(&print::expr(&e)))
}

fn call() -> impl Strategy<Value = Expr> {
    (name(), args(closed())).prop_map(|(name, args)| spanned(ExprKind::Call { name, args }))
}

fn tensor_type() -> impl Strategy<Value = TensorType> {
    (name(), vec(closed(), 0..3)).prop_map(|(dtype, dims)| TensorType { dtype, dims })
}

fn attr() -> impl Strategy<Value = Spanned<Attr>> {
    prop_oneof![
        Just(Attr::Learn),
        Just(Attr::Sorted),
        Just(Attr::Monotone),
        Just(Attr::Optional),
        args(closed()).prop_map(Attr::Paged),
        name().prop_map(Attr::Len),
        (name(), names()).prop_map(|(dtype, per)| Attr::Scale { dtype, per }),
        names().prop_map(Attr::Layout),
    ]
    .prop_map(spanned)
}

fn tensor() -> impl Strategy<Value = TensorDecl> {
    (names(), tensor_type(), vec(attr(), 0..3)).prop_map(|(names, ty, attrs)| TensorDecl { names, ty, attrs })
}

fn options() -> impl Strategy<Value = Vec<OptionDecl>> {
    vec((fresh(), option::of(closed())).prop_map(|(name, value)| OptionDecl { name, value }), 0..3)
}

fn dim() -> impl Strategy<Value = DimDecl> {
    (name(), option::of((closed(), option::of(closed())))).prop_map(|(name, size)| {
        let (value, upto) = size.map_or((None, None), |(value, upto)| (Some(value), upto));
        DimDecl { name, value, upto }
    })
}

fn simple_clause() -> impl Strategy<Value = ClauseKind> {
    prop_oneof![
        (fresh(), closed()).prop_map(|(name, value)| ClauseKind::Let { name, value }),
        (fresh(), closed()).prop_map(|(name, value)| ClauseKind::Update { name, value }),
        (name(), call()).prop_map(|(name, by)| ClauseKind::Select { name, by }),
        (names(), name()).prop_map(|(names, by)| ClauseKind::Map { names, by }),
        (names(), call(), closed()).prop_map(|(names, by, at)| ClauseKind::Rotate { names, by, at }),
        closed().prop_map(ClauseKind::Score),
        closed().prop_map(ClauseKind::Mask),
        closed().prop_map(ClauseKind::Weight),
        args(closed()).prop_map(ClauseKind::Dropout),
        args(closed()).prop_map(ClauseKind::Test),
        vec(closed(), 1..3).prop_map(ClauseKind::Return),
    ]
}

fn clause() -> impl Strategy<Value = Clause> {
    let leaf = prop_oneof![
        6 => simple_clause(),
        1 => vec(dim(), 1..4).prop_map(ClauseKind::Dims),
        1 => (name(), option::of(closed())).prop_map(|(scheme, by)| ClauseKind::Heads { scheme, by }),
        1 => name().prop_map(ClauseKind::Align),
        1 => name().prop_map(ClauseKind::Mode),
        1 => tensor().prop_map(ClauseKind::Input),
        1 => tensor().prop_map(ClauseKind::Cache),
        1 => names().prop_map(ClauseKind::Append),
        1 => (fresh(), tensor_type(), option::of(closed()))
            .prop_map(|(name, ty, init)| ClauseKind::State { name, ty, init }),
        1 => options().prop_map(ClauseKind::Numerics),
        1 => call().prop_map(ClauseKind::Distribute),
        1 => (fresh(), args(closed()), options())
            .prop_map(|(target, args, options)| ClauseKind::Schedule { target, args, options }),
        1 => (closed(), args(closed())).prop_map(|(promise, at)| ClauseKind::Ensure { promise, at }),
    ];
    let spanned_clause = |kind| Clause { kind, span: spanned(()).span };
    leaf.prop_map(spanned_clause).prop_recursive(2, 8, 3, move |inner| {
        (fresh(), vec(inner, 0..3))
            .prop_map(move |(name, clauses)| spanned_clause(ClauseKind::Branch { name, clauses }))
    })
}

fn param() -> impl Strategy<Value = Param> {
    (any::<bool>(), fresh(), option::of(name()), option::of(closed()))
        .prop_map(|(is_static, name, ty, default)| Param { is_static, name, ty, default })
}

fn item() -> impl Strategy<Value = Item> {
    let target =
        prop_oneof![vec(word(), 1..3).prop_map(UseTarget::Path), "[a-z./]{1,8}".prop_map(UseTarget::File),];
    let kinds = vec![DefKind::Mask, DefKind::Score, DefKind::Fn, DefKind::Position];
    prop_oneof![
        target.prop_map(|target| Item::Use(Use { target: spanned(target) })),
        (prop::sample::select(kinds), name(), vec(param(), 0..3), closed()).prop_map(
            |(kind, name, params, body)| Item::Def(Def { kind, name, params, body, span: place() })
        ),
        (
            prop::sample::select(vec![KernelKind::Attention, KernelKind::Recurrence]),
            name(),
            vec(param(), 0..3),
            vec(clause(), 0..5)
        )
            .prop_map(|(kind, name, params, clauses)| Item::Kernel(Kernel {
                kind,
                name,
                params,
                clauses,
                span: place()
            })),
    ]
}

/// The tree of a text that follows the grammar. `name = ...` that updates no state is refused by a check, but read.
fn read(text: &str) -> File {
    let mut map = SourceMap::default();
    let id = map.add("a.attn", text);
    let (file, diagnostics) = parse(&map, id);
    let wrong: Vec<_> = diagnostics.items().iter().filter(|d| d.code.id() != "E0006").collect();
    assert!(wrong.is_empty(), "{wrong:?}\n{text}");
    file
}

fn read_expr(text: &str) -> Expr {
    match read(&format!("fn f() = {text}")).items.pop() {
        Some(Item::Def(def)) => def.body,
        other => panic!("{other:?}\n{text}"),
    }
}

/// Without the parentheses, which say nothing that the tree does not.
fn bare(e: &Expr) -> Expr {
    let b = |e: &Expr| Box::new(bare(e));
    let all = |list: &[Expr]| list.iter().map(bare).collect::<Vec<_>>();
    spanned(match &e.node {
        ExprKind::Paren(inner) => return bare(inner),
        ExprKind::Call { name, args } => ExprKind::Call {
            name: name.clone(),
            args: args.iter().map(|a| Arg { name: a.name.clone(), value: bare(&a.value) }).collect(),
        },
        ExprKind::Index { base, index } => ExprKind::Index { base: b(base), index: all(index) },
        ExprKind::List(items) => ExprKind::List(all(items)),
        ExprKind::Prefix { op, operand } => ExprKind::Prefix { op: *op, operand: b(operand) },
        ExprKind::Infix { op, left, right } => ExprKind::Infix { op: *op, left: b(left), right: b(right) },
        ExprKind::In { value, interval: i } => {
            let (lo, hi) = (bare(&i.lo), bare(&i.hi));
            let interval = Interval { lo, hi, lo_included: i.lo_included, hi_included: i.hi_included };
            ExprKind::In { value: b(value), interval: Box::new(interval) }
        }
        ExprKind::Ternary { cond, then, otherwise } => {
            ExprKind::Ternary { cond: b(cond), then: b(then), otherwise: b(otherwise) }
        }
        leaf => leaf.clone(),
    })
}

/// The text with its spaces outside of strings replaced by other white space and comments.
fn respaced(text: &str, choices: &[u8]) -> String {
    let mut out = String::new();
    let mut in_string = false;
    for (n, c) in text.chars().enumerate() {
        in_string ^= c == '"';
        match (c, choices[n % choices.len()]) {
            (' ', 0) if !in_string => out.push('\n'),
            (' ', 1) if !in_string => out.push_str(" // a, b = (c\n"),
            (' ', 2) if !in_string => out.push_str("\n\n\n// own\n\t"),
            ('\n', 3) => out.push_str(" // end\r\n\n"),
            _ => out.push(c),
        }
    }
    out
}

fn n_comments(text: &str) -> usize {
    // Strings of `expr` hold slashes, but never a whole comment of `respaced`.
    ["// a, b = (c", "// own", "// end"].iter().map(|c| text.matches(c).count()).sum()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn expressions_read_back(e in expr()) {
        let text = print::expr(&e);
        prop_assert_eq!(bare(&read_expr(&text)), bare(&e), "{}", text);
    }

    #[test]
    fn files_read_back_and_are_formatted(
        items in vec(item(), 0..4),
        choices in vec(0u8..12, 1..200),
    ) {
        let file = File { items };
        let text = print::file(&file);
        prop_assert_eq!(&read(&text), &file, "{}", text);
        let spaced = respaced(&text, &choices);
        prop_assert_eq!(&read(&spaced), &file, "{}", spaced);
        // Updates that name no state are errors, which `format` refuses.
        if let (Ok(once), Ok(plain)) = (format(&spaced), format(&text)) {
            prop_assert_eq!(&read(&once), &file, "{}", once);
            prop_assert_eq!(read(&plain), file, "{}", plain);
            prop_assert_eq!(n_comments(&once), n_comments(&spaced), "{}", once);
            let twice = format(&once);
            prop_assert_eq!(twice.ok(), Some(once.clone()), "{}", once);
        }
    }

    #[test]
    fn garbage_is_answered(text in "[ -~\n]{0,200}", cut in 0usize..400) {
        let mut map = SourceMap::default();
        let sample = "attention a { dims B\n input q : float[B]\n mask = j in (i - 4, i] & !(j < 2)\n return lse }";
        let mut at = cut.min(sample.len());
        while !sample.is_char_boundary(at) { at -= 1; }
        for text in [text.clone(), format!("{}{text}{}", &sample[..at], &sample[at..])] {
            let id = map.add("a.attn", text.clone());
            let (_, diagnostics) = parse(&map, id);
            for d in diagnostics.items() {
                prop_assert!(d.span().end <= text.len() && d.span().start <= d.span().end);
            }
        }
    }
}
