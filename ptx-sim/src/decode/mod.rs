//! Tree to machine: names become rows, opcodes become [`Op`]s.
//!
//! Comes in: [`RawModule`]. Goes out: a [`Kernel`] for each entry. What holds: every opcode, modifier and operand was
//! understood; whatever was not is a [`ParseError`] with the line and the text. Types of registers against types of
//! instructions are not checked here: ptxas does that.

mod alu;
mod asyncs;
mod cvt;
mod memory;
mod mods;
mod operands;
mod sync;
mod tensor;

use std::collections::HashMap;

use crate::ast::{Arg, Item, RawEntry, RawInst, RawModule, VarDecl, VarSpace};
use crate::fault::ParseError;
use crate::isa::*;
use crate::parse::type_bytes;
pub(crate) use mods::Mods;

/// What a name stands for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Sym {
    Reg {
        row: Row,
        bits: u32,
    },
    Pred(PRow),
    /// A variable in shared, local or parameter space at an address.
    Var {
        space: Space,
        addr: u64,
    },
    /// A module variable in global memory.
    Table(usize),
}

#[derive(Default)]
struct Scope {
    parent: Option<usize>,
    syms: HashMap<String, Sym>,
    labels: HashMap<String, u32>,
}

/// A kernel being decoded.
pub(crate) struct Build {
    pub k: Kernel,
    scopes: Vec<Scope>,
    cur: usize,
    consts: HashMap<u64, Row>,
    specials: HashMap<Special, Row>,
    table_rows: HashMap<(usize, i64), Row>,
    name_ids: HashMap<String, u32>,
    sink: Option<Row>,
    psink: Option<PRow>,
    /// Branches: instruction, scope, label.
    fixups: Vec<(usize, usize, String)>,
}

pub(crate) type Res<T> = Result<T, String>;

/// Largest variable.
const MAX_BYTES: u64 = 1 << 28;
/// Most registers that a declaration makes.
const MAX_RANGE: u32 = 1 << 20;

/// Decodes every kernel; the tables are the module's variables in global and constant memory.
pub(crate) fn module(raw: &RawModule) -> Result<(Vec<Kernel>, Vec<Table>), ParseError> {
    let mut tables = Vec::new();
    let mut globals = HashMap::new();
    for var in &raw.vars {
        if matches!(var.space, VarSpace::Global | VarSpace::Const) {
            globals.insert(var.name.clone(), Sym::Table(tables.len()));
            tables.push(table(var)?);
        }
    }
    let target = target_number(&raw.target)?;
    let mut kernels = Vec::new();
    for entry in &raw.entries {
        kernels.push(kernel(raw, entry, &globals, target)?);
    }
    Ok((kernels, tables))
}

fn target_number(target: &str) -> Result<u32, ParseError> {
    let digits: String = target.chars().filter(char::is_ascii_digit).collect();
    match digits.parse::<u32>() {
        Ok(n) if (70..100).contains(&n) => Ok(n),
        _ => Err(ParseError {
            line: 1,
            text: format!(".target {target}"),
            message: "targets sm_70 to sm_90a are modelled".into(),
        }),
    }
}

fn bad(var: &VarDecl, message: &str) -> ParseError {
    ParseError { line: var.line, text: var.name.clone(), message: message.into() }
}

/// Bytes of an element and of a whole variable.
fn var_bytes(var: &VarDecl) -> Result<(u64, u64), ParseError> {
    let each = type_bytes(&var.ty).ok_or_else(|| bad(var, "a variable of this type has no size"))?;
    let total = each.checked_mul(var.count.unwrap_or(1)).filter(|t| *t <= MAX_BYTES);
    let total = total.ok_or_else(|| bad(var, "the variable is too large"))?;
    if var.align.is_some_and(|a| !a.is_power_of_two() || a > 1 << 16) {
        return Err(bad(var, "an alignment is a power of two"));
    }
    Ok((each, total))
}

fn table(var: &VarDecl) -> Result<Table, ParseError> {
    let (each, total) = var_bytes(var)?;
    let mut bytes = vec![0; total as usize];
    for (n, value) in var.init.iter().enumerate() {
        let bits = match value {
            Arg::Int(v) => *v as u64,
            Arg::F32(v) => u64::from(*v),
            Arg::F64(v) if each == 8 => v.to_bits(),
            Arg::F64(v) => u64::from((*v as f32).to_bits()),
            _ => return Err(bad(var, "an initialiser holds numbers only")),
        };
        let at = n * each as usize;
        let end = at + each as usize;
        let room = bytes.get_mut(at..end).ok_or_else(|| bad(var, "more values than elements"))?;
        room.copy_from_slice(&bits.to_le_bytes()[..each as usize]);
    }
    let init = var.space == VarSpace::Const || !var.init.is_empty();
    Ok(Table { bytes, init, name: var.name.clone() })
}

/// Every name that an operand mentions.
fn mentions(arg: &Arg, out: &mut Vec<String>) {
    match arg {
        Arg::Name(n) | Arg::Sum(n, _) => out.push(n.clone()),
        Arg::Not(a) | Arg::Addr(a, _) => mentions(a, out),
        Arg::Pair(a, b) => {
            mentions(a, out);
            mentions(b, out);
        }
        Arg::Tensor(a, _, list) => {
            mentions(a, out);
            list.iter().for_each(|a| mentions(a, out));
        }
        Arg::Vector(list) => list.iter().for_each(|a| mentions(a, out)),
        Arg::Int(_) | Arg::F32(_) | Arg::F64(_) | Arg::Sink => {}
    }
}

fn kernel(
    raw: &RawModule,
    entry: &RawEntry,
    globals: &HashMap<String, Sym>,
    target: u32,
) -> Result<Kernel, ParseError> {
    let mut b = Build {
        k: Kernel {
            name: entry.name.clone(),
            preds: 2,
            max_threads: entry.max_threads,
            req_threads: entry.req_threads,
            min_ctas: entry.min_ctas,
            max_regs: entry.max_regs,
            target,
            ..Kernel::default()
        },
        scopes: vec![Scope { parent: None, syms: globals.clone(), labels: HashMap::new() }],
        cur: 0,
        consts: HashMap::new(),
        specials: HashMap::new(),
        table_rows: HashMap::new(),
        name_ids: HashMap::new(),
        sink: None,
        psink: None,
        fixups: Vec::new(),
    };
    if entry.cluster.is_some_and(|c| c != [1; 3]) {
        let text = format!(".reqnctapercluster {:?}", entry.cluster);
        let message = "clusters of more than one block are not modelled".into();
        return Err(ParseError { line: entry.line, text, message });
    }
    b.params(entry)?;
    b.shared(raw, entry)?;
    b.body(entry)?;
    b.resolve(entry)?;
    Ok(b.k)
}

impl Build {
    fn params(&mut self, entry: &RawEntry) -> Result<(), ParseError> {
        let mut offset = 0;
        for var in &entry.params {
            let (each, total) = var_bytes(var)?;
            let align = u64::from(var.align.unwrap_or(each as u32)).max(each);
            offset = u64::next_multiple_of(offset, align);
            self.scopes[0].syms.insert(var.name.clone(), Sym::Var { space: Space::Param, addr: offset });
            self.k.params.push(Param { name: var.name.clone(), offset: offset as u32, size: total as u32 });
            offset += total;
        }
        self.k.param_bytes = offset as u32;
        Ok(())
    }

    /// Places shared variables that the kernel mentions, each at the least alignment that it declares.
    fn shared(&mut self, raw: &RawModule, entry: &RawEntry) -> Result<(), ParseError> {
        let mut used = Vec::new();
        let mut own = Vec::new();
        for item in &entry.body {
            match item {
                Item::Inst(inst) => inst.args.iter().for_each(|a| mentions(a, &mut used)),
                Item::Decl(d) if d.space == VarSpace::Shared => own.push(d),
                _ => {}
            }
        }
        let module = raw.vars.iter().filter(|v| v.space == VarSpace::Shared && used.contains(&v.name));
        let all: Vec<&VarDecl> = module.chain(own).collect();
        let mut at = u64::from(SHARED_BASE);
        let dynamic = |v: &&VarDecl| v.external || v.count == Some(0);
        for var in all.iter().filter(|v| !dynamic(v)) {
            let (each, total) = var_bytes(var)?;
            at = least_aligned(at, u64::from(var.align.unwrap_or(each as u32)));
            self.scopes[0].syms.insert(var.name.clone(), Sym::Var { space: Space::Shared, addr: at });
            at += total;
        }
        self.k.shared_bytes = (at - u64::from(SHARED_BASE)) as u32;
        let outer: Vec<&&VarDecl> = all.iter().filter(|v| dynamic(v)).collect();
        let align = outer.iter().map(|v| u64::from(v.align.unwrap_or(16))).max().unwrap_or(16);
        let start = least_aligned(at, align);
        for var in &outer {
            self.scopes[0].syms.insert(var.name.clone(), Sym::Var { space: Space::Shared, addr: start });
        }
        if !outer.is_empty() {
            self.k.dynamic = Some(((start - u64::from(SHARED_BASE)) as u32, align as u32));
        }
        Ok(())
    }

    fn body(&mut self, entry: &RawEntry) -> Result<(), ParseError> {
        self.open();
        for item in &entry.body {
            match item {
                Item::Open => self.open(),
                Item::Close => self.cur = self.scopes[self.cur].parent.unwrap_or(0),
                Item::Label(line, name) => {
                    let here = self.k.code.len() as u32;
                    if self.scopes[self.cur].labels.insert(name.clone(), here).is_some() {
                        let message = "the label stands twice in its scope".into();
                        return Err(ParseError { line: *line, text: name.clone(), message });
                    }
                }
                Item::Decl(d) => self.declare(d)?,
                Item::Inst(inst) => self.instruction(inst)?,
            }
        }
        // Control may reach the closing brace.
        let text = "}".to_string();
        let name = self.name_id("ret");
        let guard = PSrc { row: P_TRUE, negated: false };
        self.k.code.push(Inst { op: Op::Exit, guard, line: entry.line, name, text });
        Ok(())
    }

    fn open(&mut self) {
        self.scopes.push(Scope { parent: Some(self.cur), ..Scope::default() });
        self.cur = self.scopes.len() - 1;
    }

    fn declare(&mut self, d: &VarDecl) -> Result<(), ParseError> {
        match d.space {
            VarSpace::Reg => {
                let bits = match d.ty.as_str() {
                    "pred" => 1,
                    ty => 8 * type_bytes(ty).ok_or_else(|| bad(d, "a register of this type"))? as u32,
                };
                if d.range.is_some_and(|n| n > MAX_RANGE) {
                    return Err(bad(d, "too many registers"));
                }
                let names: Vec<String> = match d.range {
                    Some(n) => (0..n).map(|i| format!("{}{i}", d.name)).collect(),
                    None => vec![d.name.clone()],
                };
                for name in names {
                    let sym = if bits == 1 {
                        self.k.preds += 1;
                        self.k.pred_names.push((self.k.preds - 1, name.clone()));
                        Sym::Pred(self.k.preds - 1)
                    } else {
                        let row = self.row();
                        self.k.row_names.push((row, name.clone()));
                        Sym::Reg { row, bits }
                    };
                    self.scopes[self.cur].syms.insert(name, sym);
                }
            }
            VarSpace::Local => {
                let (each, total) = var_bytes(d)?;
                let align = d.align.unwrap_or(each as u32);
                let at = self.k.local_bytes.next_multiple_of(align);
                self.k.local_bytes = at + total as u32;
                let sym = Sym::Var { space: Space::Local, addr: u64::from(at) };
                self.scopes[self.cur].syms.insert(d.name.clone(), sym);
            }
            VarSpace::Shared => {}
            _ => return Err(bad(d, "module variables are declared outside of kernels")),
        }
        Ok(())
    }

    fn instruction(&mut self, raw: &RawInst) -> Result<(), ParseError> {
        let fail = |message: String| ParseError { line: raw.line, text: raw.text.clone(), message };
        let guard = match &raw.guard {
            None => PSrc { row: P_TRUE, negated: false },
            Some((name, negated)) => match self.lookup(name) {
                Some(Sym::Pred(row)) => PSrc { row, negated: *negated },
                _ => return Err(fail(format!("the guard `{name}` is no predicate"))),
            },
        };
        let name = self.name_id(&raw.parts.join("."));
        let op = self.op(raw).map_err(fail)?;
        self.k.code.push(Inst { op, guard, line: raw.line, name, text: raw.text.clone() });
        Ok(())
    }

    fn name_id(&mut self, name: &str) -> u32 {
        if let Some(id) = self.name_ids.get(name) {
            return *id;
        }
        let id = self.k.names.len() as u32;
        self.k.names.push(name.to_string());
        self.name_ids.insert(name.to_string(), id);
        id
    }

    fn resolve(&mut self, entry: &RawEntry) -> Result<(), ParseError> {
        for (inst, scope, label) in std::mem::take(&mut self.fixups) {
            let mut at = Some(scope);
            let found = loop {
                let Some(s) = at else { break None };
                if let Some(target) = self.scopes[s].labels.get(&label) {
                    break Some(*target);
                }
                at = self.scopes[s].parent;
            };
            let here = &mut self.k.code[inst];
            let Some(target) = found else {
                let message = format!("no label `{label}` in `{}`", entry.name);
                return Err(ParseError { line: here.line, text: here.text.clone(), message });
            };
            here.op = Op::Bra { target };
        }
        Ok(())
    }

    fn lookup(&self, name: &str) -> Option<Sym> {
        let mut at = Some(self.cur);
        while let Some(s) = at {
            if let Some(sym) = self.scopes[s].syms.get(name) {
                return Some(*sym);
            }
            at = self.scopes[s].parent;
        }
        None
    }

    fn row(&mut self) -> Row {
        self.k.rows += 1;
        self.k.rows - 1
    }

    /// tidy: long match (one call for each family of opcodes).
    fn op(&mut self, raw: &RawInst) -> Res<Op> {
        let mods = Mods::new(&raw.parts[1..]);
        let args = raw.args.as_slice();
        match raw.parts[0].as_str() {
            "mov" => self.mov(mods, args),
            "add" | "sub" | "mul" | "mad" | "fma" | "div" | "min" | "max" | "abs" | "neg" | "addc"
            | "subc" => self.arith(&raw.parts[0], mods, args),
            "and" | "or" | "xor" | "not" | "cnot" | "shl" | "shr" | "rem" | "popc" | "clz" | "brev"
            | "sad" | "bfe" | "bfi" | "bfind" | "shf" | "lop3" | "prmt" | "dp4a" => {
                self.bits(&raw.parts[0], mods, args)
            }
            "ex2" | "lg2" | "rcp" | "rsqrt" | "sqrt" | "tanh" | "sin" | "cos" | "copysign" => {
                self.functions(&raw.parts[0], mods, args)
            }
            "set" | "setp" => self.compare(&raw.parts[0], mods, args),
            "selp" | "slct" => self.select(&raw.parts[0], mods, args),
            "cvt" => self.cvt(mods, args),
            "cvta" | "isspacep" | "mapa" | "getctarank" => self.spaces(&raw.parts[0], mods, args),
            "ld" | "ldu" => self.load(mods, args),
            "st" => self.store(mods, args),
            "atom" | "red" => self.atomic(&raw.parts[0], mods, args),
            "prefetch" | "prefetchu" | "createpolicy" | "discard" | "applypriority" => {
                self.hint(&raw.parts[0], mods, args)
            }
            "shfl" | "vote" | "match" | "redux" | "elect" | "activemask" => {
                self.warp(&raw.parts[0], mods, args)
            }
            "bar" | "barrier" | "membar" | "fence" | "nanosleep" | "griddepcontrol" | "setmaxnreg" => {
                self.sync(&raw.parts[0], mods, args)
            }
            "bra" | "ret" | "exit" | "trap" => self.control(&raw.parts[0], mods, args),
            "ldmatrix" | "stmatrix" | "mma" | "wgmma" => self.matrix(&raw.parts[0], mods, args),
            "cp" => self.copies(mods, args),
            "mbarrier" => self.mbarrier(mods, args),
            "call" => Err("calls are not modelled: have every function inlined".into()),
            other => Err(format!("opcode `{other}` is not known")),
        }
    }
}

/// The next address that is a multiple of `align` and, below 1024, of no larger power of two.
fn least_aligned(at: u64, align: u64) -> u64 {
    let align = align.max(1);
    let place = at.next_multiple_of(align);
    if align < 1024 && place.is_multiple_of(2 * align) { place + align } else { place }
}
