//! PTX text to a tree.
//!
//! Comes in: a module's text. Goes out: [`RawModule`]. What holds: every directive was known (an unknown one is an error that
//! names its line); debugging directives are dropped, lines are kept. Not here: what opcodes mean ([`crate::decode`]).

use crate::ast::{Arg, Item, RawEntry, RawInst, RawModule, VarDecl, VarSpace};
use crate::cursor::Cursor;
use crate::fault::ParseError;

type Result<T> = std::result::Result<T, ParseError>;

/// Parses a module.
pub(crate) fn module(text: &str) -> Result<RawModule> {
    let mut c = Cursor::new(text);
    let mut module = RawModule::default();
    loop {
        c.skip();
        if c.done() {
            break;
        }
        top_level(&mut c, &mut module)?;
    }
    if module.target.is_empty() {
        return Err(c.error("a module needs `.version` and `.target`"));
    }
    Ok(module)
}

fn top_level(c: &mut Cursor, module: &mut RawModule) -> Result<()> {
    let line = c.line;
    let mut external = false;
    loop {
        c.expect(b'.')?;
        let word = c.word()?;
        match word.as_str() {
            "version" => {
                let (major, minor) = version(c)?;
                module.version = (major, minor);
                return Ok(());
            }
            "target" => {
                c.skip();
                module.target = c.name()?;
                while c.eat(b',') {
                    c.name()?;
                }
                return Ok(());
            }
            "address_size" => {
                return match c.integer()? {
                    64 => Ok(()),
                    n => Err(c.error(format!("address size {n}: only 64 is modelled"))),
                };
            }
            "visible" | "weak" | "common" => c.skip(),
            "extern" => {
                external = true;
                c.skip();
            }
            "entry" => {
                let entry = entry(c, line)?;
                module.entries.push(entry);
                return Ok(());
            }
            "func" => return Err(c.error("`.func` is not modelled: have every call inlined")),
            "global" | "const" | "shared" => {
                let space = space_of(&word);
                variables(c, space, external, &mut |d| module.vars.push(d))?;
                return Ok(());
            }
            "file" | "loc" | "pragma" => {
                c.skip_line();
                return Ok(());
            }
            "section" => {
                while c.peek() != b'{' && !c.done() {
                    c.pos += 1;
                }
                return c.skip_block();
            }
            other => return Err(c.error(format!("directive `.{other}` is not known"))),
        }
    }
}

fn version(c: &mut Cursor) -> Result<(u32, u32)> {
    match c.number()? {
        Arg::F64(v) => Ok((v as u32, ((v * 10.0).round() as u32) % 10)),
        _ => Err(c.error("expected a version such as 8.3")),
    }
}

fn space_of(word: &str) -> VarSpace {
    match word {
        "global" => VarSpace::Global,
        "const" => VarSpace::Const,
        "shared" => VarSpace::Shared,
        "local" => VarSpace::Local,
        "param" => VarSpace::Param,
        _ => VarSpace::Reg,
    }
}

/// `.align 16 .b8 name[64] = {...}, ...;` after the space.
fn variables(c: &mut Cursor, space: VarSpace, external: bool, out: &mut dyn FnMut(VarDecl)) -> Result<()> {
    let mut head = VarDecl {
        line: c.line,
        space,
        external,
        align: None,
        ty: String::new(),
        name: String::new(),
        range: None,
        count: None,
        init: Vec::new(),
    };
    type_of(c, &mut head)?;
    loop {
        out(declarator(c, head.clone())?);
        if !c.eat(b',') {
            break;
        }
    }
    c.expect(b';')
}

/// Alignment, attributes and type.
fn type_of(c: &mut Cursor, decl: &mut VarDecl) -> Result<()> {
    let mut vector = 1;
    loop {
        c.skip();
        if c.peek() != b'.' {
            break;
        }
        c.expect(b'.')?;
        let word = c.word()?;
        match word.as_str() {
            "align" => decl.align = Some(c.integer()? as u32),
            "v2" => vector = 2,
            "v4" => vector = 4,
            "ptr" | "global" | "shared" | "const" | "local" if decl.space == VarSpace::Param => {}
            "managed" | "unified" => {}
            _ if type_bytes(&word).is_some() || word == "pred" => decl.ty = word,
            other => return Err(c.error(format!("`.{other}` in a declaration is not known"))),
        }
    }
    if decl.ty.is_empty() {
        return Err(c.error("a declaration needs a type"));
    }
    if vector > 1 {
        decl.count = Some(vector);
    }
    Ok(())
}

/// Bytes of a fundamental type.
pub(crate) fn type_bytes(ty: &str) -> Option<u64> {
    Some(match ty {
        "b8" | "u8" | "s8" => 1,
        "b16" | "u16" | "s16" | "f16" | "bf16" => 2,
        "b32" | "u32" | "s32" | "f32" | "f16x2" | "bf16x2" => 4,
        "b64" | "u64" | "s64" | "f64" => 8,
        _ => return None,
    })
}

fn declarator(c: &mut Cursor, mut decl: VarDecl) -> Result<VarDecl> {
    decl.line = c.line;
    decl.name = c.name()?;
    if c.eat(b'<') {
        decl.range = Some(c.integer()? as u32);
        c.expect(b'>')?;
    }
    while c.eat(b'[') {
        let n = if c.eat(b']') {
            0
        } else {
            let n = c.integer()?;
            c.expect(b']')?;
            n
        };
        decl.count = Some(decl.count.map_or(n, |m| m.saturating_mul(n)));
    }
    if c.eat(b'=') {
        c.skip();
        if c.peek() == b'{' {
            initialiser(c, &mut decl.init)?;
        } else {
            decl.init.push(c.number()?);
        }
    }
    Ok(decl)
}

fn initialiser(c: &mut Cursor, out: &mut Vec<Arg>) -> Result<()> {
    c.expect(b'{')?;
    loop {
        c.skip();
        match c.peek() {
            b'}' => break,
            b'{' => initialiser(c, out)?,
            b'-' | b'0'..=b'9' => out.push(c.number()?),
            _ => return Err(c.error("an initialiser holds numbers only")),
        }
        if !c.eat(b',') {
            break;
        }
    }
    c.expect(b'}')
}

fn triple(c: &mut Cursor) -> Result<[u32; 3]> {
    let mut dims = [1; 3];
    for (n, dim) in dims.iter_mut().enumerate() {
        if n > 0 && !c.eat(b',') {
            break;
        }
        *dim = c.integer()? as u32;
    }
    Ok(dims)
}

fn entry(c: &mut Cursor, line: u32) -> Result<RawEntry> {
    c.skip();
    let mut entry = RawEntry { line, name: c.name()?, ..RawEntry::default() };
    if c.eat(b'(') && !c.eat(b')') {
        loop {
            c.expect(b'.')?;
            if c.word()? != "param" {
                return Err(c.error("parameters of a kernel are `.param`"));
            }
            let mut decl = VarDecl {
                line: c.line,
                space: VarSpace::Param,
                external: false,
                align: None,
                ty: String::new(),
                name: String::new(),
                range: None,
                count: None,
                init: Vec::new(),
            };
            type_of(c, &mut decl)?;
            entry.params.push(declarator(c, decl)?);
            if !c.eat(b',') {
                break;
            }
        }
        c.expect(b')')?;
    }
    loop {
        c.skip();
        match c.peek() {
            b'{' => break,
            b';' => {
                c.expect(b';')?;
                return Ok(entry);
            }
            _ => attribute(c, &mut entry)?,
        }
    }
    c.expect(b'{')?;
    body(c, &mut entry)?;
    Ok(entry)
}

fn attribute(c: &mut Cursor, entry: &mut RawEntry) -> Result<()> {
    c.expect(b'.')?;
    match c.word()?.as_str() {
        "maxntid" => entry.max_threads = Some(triple(c)?),
        "reqntid" => entry.req_threads = Some(triple(c)?),
        "minnctapersm" => entry.min_ctas = Some(c.integer()? as u32),
        "maxnctapersm" => {
            c.integer()?;
        }
        "maxnreg" => entry.max_regs = Some(c.integer()? as u32),
        "reqnctapercluster" => entry.cluster = Some(triple(c)?),
        "explicitcluster" | "noreturn" => {}
        "maxclusterrank" => {
            c.integer()?;
        }
        "pragma" => {
            c.string()?;
            c.expect(b';')?;
        }
        other => return Err(c.error(format!("kernel directive `.{other}` is not known"))),
    }
    Ok(())
}

fn body(c: &mut Cursor, entry: &mut RawEntry) -> Result<()> {
    let mut depth = 0;
    loop {
        c.skip();
        match c.peek() {
            0 if c.done() => return Err(c.error(format!("the body of `{}` is not closed", entry.name))),
            b'}' => {
                c.expect(b'}')?;
                if depth == 0 {
                    return Ok(());
                }
                depth -= 1;
                entry.body.push(Item::Close);
            }
            b'{' => {
                c.expect(b'{')?;
                depth += 1;
                entry.body.push(Item::Open);
            }
            b';' => c.expect(b';')?,
            b'.' => local_directive(c, entry)?,
            _ => statement(c, entry)?,
        }
    }
}

fn local_directive(c: &mut Cursor, entry: &mut RawEntry) -> Result<()> {
    c.expect(b'.')?;
    let word = c.word()?;
    match word.as_str() {
        "reg" | "shared" | "local" | "global" | "const" => {
            variables(c, space_of(&word), false, &mut |d| entry.body.push(Item::Decl(d)))
        }
        "loc" | "file" => {
            c.skip_line();
            Ok(())
        }
        "pragma" => {
            c.string()?;
            c.expect(b';')
        }
        other => Err(c.error(format!("directive `.{other}` is not known here"))),
    }
}

/// A label or an instruction.
fn statement(c: &mut Cursor, entry: &mut RawEntry) -> Result<()> {
    let (start, line) = (c.pos, c.line);
    let mut guard = None;
    if c.eat(b'@') {
        let negated = c.eat(b'!');
        guard = Some((c.name()?, negated));
        c.skip();
    }
    let first = c.word()?;
    c.skip();
    if guard.is_none() && c.peek() == b':' && c.at(1) != b':' {
        c.expect(b':')?;
        entry.body.push(Item::Label(line, first));
        return Ok(());
    }
    let mut parts = vec![first];
    while c.peek() == b'.' {
        c.expect(b'.')?;
        parts.push(c.word()?);
    }
    let mut args = Vec::new();
    if !c.eat(b';') {
        loop {
            args.push(operand(c)?);
            if !c.eat(b',') {
                break;
            }
        }
        c.expect(b';')?;
    }
    let text = c.folded(start, c.pos);
    entry.body.push(Item::Inst(RawInst { line, guard, parts, args, text }));
    Ok(())
}

fn operand(c: &mut Cursor) -> Result<Arg> {
    c.skip();
    match c.peek() {
        b'[' => address(c),
        b'{' => {
            c.expect(b'{')?;
            let mut list = Vec::new();
            if !c.eat(b'}') {
                loop {
                    list.push(operand(c)?);
                    if !c.eat(b',') {
                        break;
                    }
                }
                c.expect(b'}')?;
            }
            Ok(Arg::Vector(list))
        }
        b'!' => {
            c.expect(b'!')?;
            Ok(Arg::Not(Box::new(Arg::Name(c.name()?))))
        }
        b'-' | b'0'..=b'9' => c.number(),
        _ => {
            let name = c.name()?;
            let first = if name == "_" { Arg::Sink } else { Arg::Name(name.clone()) };
            if c.eat(b'|') {
                return Ok(Arg::Pair(Box::new(first), Box::new(operand(c)?)));
            }
            c.skip();
            if matches!(c.peek(), b'+' | b'-') {
                return Ok(Arg::Sum(name, offset(c)?));
            }
            Ok(first)
        }
    }
}

/// `+8`, `-8`, `+-8` or nothing.
fn offset(c: &mut Cursor) -> Result<i64> {
    let mut sign = 1;
    if c.eat(b'+') {
        // The number's own sign follows.
    } else if c.eat(b'-') {
        sign = -1;
    } else {
        return Ok(0);
    }
    match c.number()? {
        Arg::Int(v) => Ok(sign * v as i64),
        _ => Err(c.error("an offset is an integer")),
    }
}

fn address(c: &mut Cursor) -> Result<Arg> {
    c.expect(b'[')?;
    c.skip();
    let base = match c.peek() {
        b'0'..=b'9' | b'-' => c.number()?,
        _ => Arg::Name(c.name()?),
    };
    let off = offset(c)?;
    let coordinates = if c.eat(b',') {
        match operand(c)? {
            Arg::Vector(list) => Some(list),
            one => Some(vec![one]),
        }
    } else {
        None
    };
    c.expect(b']')?;
    Ok(match coordinates {
        Some(list) => Arg::Tensor(Box::new(base), off, list),
        None => Arg::Addr(Box::new(base), off),
    })
}
