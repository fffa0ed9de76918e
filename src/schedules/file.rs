//! Schedule files: schedules of the attentions of one kernel, in TOML, to be pinned and shared.
//!
//! Comes in: a text, written by `attnc tune -o`, `attnc build --emit=schedule-file`, or by hand. Goes out: a
//! [`ScheduleFile`], and back to text. What holds: what is not understood is an error with its line, the field, what was
//! expected and what was found; nothing is ignored. Whether a schedule fits is not known here, only where its fields stand.

use std::fmt::Write;
use std::ops::Range;

use attn_compiler::schedule::overrides::Override;
use attn_compiler::schedule::{QueryOrder, Schedule, ScheduleError};
use attn_compiler::syntax::words::nearest;
use toml_edit::{Document, Item, TableLike};

/// The schema that is read and written.
pub(crate) const SCHEMA: i64 = 1;

const ROOT: [&str; 4] = ["schema", "kernel", "attention", "measured"];
const FIELDS: [&str; 6] = ["name", "tile_q", "tile_kv", "heads", "order", "direct"];
const MEASURED: [&str; 8] =
    ["compiler", "cpu", "meaning", "at", "dims", "threads", "median_ms", "automatic_ms"];
const ORDERS: [QueryOrder; 2] = [QueryOrder::Ascending, QueryOrder::Descending];

/// What is wrong with a file, and in which line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub line: usize,
    pub text: String,
}

type Result<T> = std::result::Result<T, Fault>;

/// The schedule of one attention.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub attention: String,
    pub decided: Override,
    /// Where it begins.
    pub line: usize,
    /// Where its fields stand.
    fields: Vec<(&'static str, usize)>,
}

/// What was measured, and what for.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Measured {
    /// Version of the compiler.
    pub compiler: String,
    /// Model of the CPU.
    pub cpu: String,
    /// Hash of what is computed.
    pub meaning: String,
    /// Lengths, to powers of two.
    pub at: String,
    /// Dims, as they were.
    pub dims: String,
    pub threads: i64,
    pub median_ms: f64,
    pub automatic_ms: f64,
}

/// See the head of this file.
#[derive(Clone, Debug)]
pub(crate) struct ScheduleFile {
    pub kernel: String,
    pub kernel_line: usize,
    pub entries: Vec<Entry>,
    pub measured: Option<Measured>,
}

impl Entry {
    /// The line that an error of the schedule is about.
    pub fn line_of(&self, err: &ScheduleError) -> usize {
        let field = match err {
            ScheduleError::BadTile { what, .. } => what,
            ScheduleError::BadHeads { .. } => "heads",
            ScheduleError::TooLarge { .. } => "tile_q",
        };
        self.fields.iter().find(|(name, _)| *name == field).map_or(self.line, |(_, line)| *line)
    }
}

impl ScheduleFile {
    /// Reads a text.
    pub fn parse(text: &str) -> Result<ScheduleFile> {
        let reader = Reader { text };
        let document = Document::parse(text).map_err(|err| {
            let line = reader.line(err.span());
            Fault { line, text: format!("this is no TOML: {}", err.message().replace('\n', ", ")) }
        })?;
        let root = document.as_table();
        reader.known("", root, &ROOT)?;
        match reader.int(root, "schema")? {
            (_, SCHEMA) => {}
            (line, found) => {
                let text = format!(
                    "schema = {found}, and this attnc reads schema {SCHEMA}; write the file anew with `attnc tune -o` \
                     or `attnc build --emit=schedule-file`"
                );
                return Err(Fault { line, text });
            }
        }
        let (kernel_line, kernel) = reader.string(root, "kernel")?;
        let entries = reader.entries(root)?;
        let measured = root.get("measured").map(|item| reader.measured(item)).transpose()?;
        Ok(ScheduleFile { kernel, kernel_line, entries, measured })
    }
}

/// The text of a file. `comment` stands at its head.
pub(crate) fn print<'a>(
    comment: &str,
    kernel: &str,
    attentions: impl IntoIterator<Item = (&'a str, &'a Schedule)>,
    measured: Option<&Measured>,
) -> String {
    let mut out = format!("# {comment}\nschema = {SCHEMA}\nkernel = {kernel:?}\n");
    let mut line = |text: String| {
        let _ = writeln!(out, "{text}");
    };
    for (name, s) in attentions {
        line(format!("\n[[attention]]\nname = {name:?}"));
        line(format!("tile_q = {}\ntile_kv = {}\nheads = {}", s.tile_q, s.tile_kv, s.heads));
        line(format!("order = {:?}\ndirect = {}", s.order.name(), s.direct));
    }
    if let Some(m) = measured {
        line(format!("\n[measured]\ncompiler = {:?}\ncpu = {:?}", m.compiler, m.cpu));
        line(format!("meaning = {:?}\nat = {:?}\ndims = {:?}", m.meaning, m.at, m.dims));
        line(format!("threads = {}\nmedian_ms = {:?}", m.threads, m.median_ms));
        line(format!("automatic_ms = {:?}", m.automatic_ms));
    }
    out
}

struct Reader<'a> {
    text: &'a str,
}

impl Reader<'_> {
    fn line(&self, span: Option<Range<usize>>) -> usize {
        let at = span.map_or(0, |s| s.start).min(self.text.len());
        self.text.as_bytes()[..at].iter().filter(|b| **b == b'\n').count() + 1
    }

    fn line_of_key(&self, table: &dyn TableLike, name: &str) -> usize {
        self.line(table.key(name).and_then(|key| key.span()))
    }

    /// Every key is one of these.
    fn known(&self, of: &str, table: &dyn TableLike, known: &[&str]) -> Result<()> {
        let Some((key, _)) = table.iter().find(|(key, _)| !known.contains(key)) else { return Ok(()) };
        let meant = nearest(key, known.iter().copied());
        let meant = meant.map_or(String::new(), |n| format!("; did you mean `{n}`?"));
        let text = format!("there is no field `{of}{key}`{meant} (there are {})", known.join(", "));
        Err(Fault { line: self.line_of_key(table, key), text })
    }

    fn wrong(&self, table: &dyn TableLike, name: &str, item: &Item, expected: &str) -> Fault {
        let text = format!("`{name}` is {}, expected {expected}", described(item));
        Fault { line: self.line_of_key(table, name), text }
    }

    fn needed<'t>(&self, table: &'t dyn TableLike, name: &str, expected: &str) -> Result<&'t Item> {
        let line = || table.iter().next().map_or(1, |(first, _)| self.line_of_key(table, first));
        let missing = || Fault { line: line(), text: format!("`{name}` is missing, expected {expected}") };
        table.get(name).ok_or_else(missing)
    }

    fn int(&self, table: &dyn TableLike, name: &str) -> Result<(usize, i64)> {
        let expected = if name == "schema" { "schema = 1" } else { "an integer" };
        let item = self.needed(table, name, expected)?;
        let n = item.as_integer().ok_or_else(|| self.wrong(table, name, item, expected))?;
        Ok((self.line_of_key(table, name), n))
    }

    fn string(&self, table: &dyn TableLike, name: &str) -> Result<(usize, String)> {
        let item = self.needed(table, name, "a string")?;
        let text = item.as_str().ok_or_else(|| self.wrong(table, name, item, "a string"))?;
        Ok((self.line_of_key(table, name), text.to_string()))
    }

    fn float(&self, table: &dyn TableLike, name: &str) -> Result<f64> {
        let item = self.needed(table, name, "a number")?;
        let number = item.as_float().or(item.as_integer().map(|n| n as f64));
        number.ok_or_else(|| self.wrong(table, name, item, "a number"))
    }

    fn entries(&self, root: &dyn TableLike) -> Result<Vec<Entry>> {
        let item = self.needed(root, "attention", "[[attention]]")?;
        let tables = item.as_array_of_tables();
        let tables = tables.ok_or_else(|| self.wrong(root, "attention", item, "[[attention]]"))?;
        let mut entries: Vec<Entry> = Vec::new();
        for table in tables {
            let entry = self.entry(table, self.line(table.span()))?;
            if entries.iter().any(|e| e.attention == entry.attention) {
                let text = format!("attention `{}` has two schedules", entry.attention);
                return Err(Fault { line: entry.line, text });
            }
            entries.push(entry);
        }
        Ok(entries)
    }

    fn entry(&self, table: &dyn TableLike, line: usize) -> Result<Entry> {
        self.known("attention.", table, &FIELDS)?;
        let (_, attention) = self.string(table, "name")?;
        let mut fields = Vec::new();
        let mut optional = |name: &'static str| -> Result<Option<i64>> {
            if table.get(name).is_none() {
                return Ok(None);
            }
            let (line, n) = self.int(table, name)?;
            fields.push((name, line));
            Ok(Some(n))
        };
        let decided = Override {
            tile_q: optional("tile_q")?,
            tile_kv: optional("tile_kv")?,
            heads: optional("heads")?,
            direct: optional("direct")?,
            order: self.order(table)?,
        };
        Ok(Entry { attention, decided, line, fields })
    }

    fn order(&self, table: &dyn TableLike) -> Result<Option<QueryOrder>> {
        let Some(item) = table.get("order") else { return Ok(None) };
        let found = ORDERS.into_iter().find(|o| item.as_str() == Some(o.name()));
        let expected = "\"ascending\" or \"descending\"";
        found.map(Some).ok_or_else(|| self.wrong(table, "order", item, expected))
    }

    fn measured(&self, item: &Item) -> Result<Measured> {
        let Some(t) = item.as_table_like() else {
            let text = format!("`measured` is {}, expected [measured]", described(item));
            return Err(Fault { line: self.line(item.span()), text });
        };
        self.known("measured.", t, &MEASURED)?;
        let string = |name| self.string(t, name).map(|(_, text)| text);
        Ok(Measured {
            compiler: string("compiler")?,
            cpu: string("cpu")?,
            meaning: string("meaning")?,
            at: string("at")?,
            dims: string("dims")?,
            threads: self.int(t, "threads")?.1,
            median_ms: self.float(t, "median_ms")?,
            automatic_ms: self.float(t, "automatic_ms")?,
        })
    }
}

/// `"x"`, or the kind of what stands there.
fn described(item: &Item) -> String {
    let short = |s: &str| s.chars().take(40).collect::<String>();
    match (item.as_str(), item.as_integer()) {
        (Some(s), _) => format!("{:?}", short(s)),
        (_, Some(n)) => n.to_string(),
        _ => format!("of the type {}", item.type_name()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "# pinned\nschema = 1\nkernel = \"a\"\n\n[[attention]]\nname = \"a\"\ntile_q = 16\n\
                        order = \"ascending\"\n\n[[attention]]\nname = \"a.b\"\nheads = 2\n";

    #[test]
    fn files_are_read() {
        let file = ScheduleFile::parse(GOOD).unwrap();
        assert_eq!((file.kernel.as_str(), file.kernel_line, file.measured), ("a", 3, None));
        let decided =
            Override { tile_q: Some(16), order: Some(QueryOrder::Ascending), ..Override::default() };
        assert_eq!((file.entries[0].decided, file.entries[0].line), (decided, 5));
        assert_eq!((file.entries[1].attention.as_str(), file.entries[1].decided.heads), ("a.b", Some(2)));
        let bad = ScheduleError::BadHeads { heads: 2, most: 1, tile_q: 1, max_rows: 1 };
        assert_eq!((file.entries[1].line_of(&bad), file.entries[0].line_of(&bad)), (12, 5));
    }

    #[test]
    fn what_is_written_is_read() {
        let s = Schedule {
            target: "cpu",
            clips: true,
            tile_q: 8,
            heads: 2,
            tile_kv: 64,
            order: QueryOrder::Descending,
            direct: 16,
            together: 1,
            pairs: attn_compiler::schedule::pairs::Pairs::NONE,
            split: None,
            fill: None,
            sram: vec![],
            budget: 0,
        };
        let m = Measured {
            compiler: "0.1.0+x".into(),
            cpu: "some CPU; cpu x86_64 l2=1024K".into(),
            meaning: "00ff".into(),
            at: "B=1 S=2048".into(),
            dims: "B = 1".into(),
            threads: 2,
            median_ms: 1e-7,
            automatic_ms: 3.0,
        };
        let text = print("a comment", "k", [("k", &s), ("k.far", &s)], Some(&m));
        let file = ScheduleFile::parse(&text).unwrap();
        assert_eq!(file.measured, Some(m));
        assert_eq!(file.entries.len(), 2);
        assert!(file.entries.iter().all(|e| e.decided == Override::of(&s)), "{text}");
    }

    #[test]
    fn faults_have_lines_fields_and_remedies() {
        let cases = [
            ("", 1, "`schema` is missing, expected schema = 1"),
            ("schema = 1\n", 1, "`kernel` is missing"),
            (
                "schema = 2\nkernel = \"a\"\n",
                1,
                "schema = 2, and this attnc reads schema 1; write the file anew",
            ),
            ("schema = \"1\"\n", 1, "`schema` is \"1\", expected schema = 1"),
            ("\nkernel = [\n", 2, "this is no TOML"),
            ("schema = 1\nkernel = 3\n", 2, "`kernel` is 3, expected a string"),
            ("schema = 1\nkernl = \"a\"\n", 2, "did you mean `kernel`?"),
            ("schema = 1\nkernel = \"a\"\nattention = 1\n", 3, "expected [[attention]]"),
            ("schema = 1\nkernel = \"a\"\n", 1, "`attention` is missing, expected [[attention]]"),
        ];
        for (text, line, part) in cases {
            let fault = ScheduleFile::parse(text).unwrap_err();
            assert!(fault.line == line && fault.text.contains(part), "{text:?}: {fault:?}");
        }
        let in_entry = [
            ("tile = 3", "no field `attention.tile` (there are name, tile_q"),
            ("tile_q = 1.5", "`tile_q` is of the type float, expected an integer"),
            ("tile_q = 99999999999999999999", "this is no TOML"),
            ("order = \"up\"", "`order` is \"up\", expected \"ascending\" or \"descending\""),
            ("heads = 1\nheads = 1", "this is no TOML"),
        ];
        for (line, part) in in_entry {
            let text = format!("schema = 1\nkernel = \"a\"\n[[attention]]\nname = \"a\"\n{line}\n");
            let fault = ScheduleFile::parse(&text).unwrap_err();
            assert!(fault.line >= 5 && fault.text.contains(part), "{line}: {fault:?}");
        }
        let twice = format!("{GOOD}\n[[attention]]\nname = \"a\"\n");
        assert_eq!(ScheduleFile::parse(&twice).unwrap_err().line, 14);
        assert!(ScheduleFile::parse(&format!("{GOOD}\n[measured]\ncpu = 1\n")).unwrap_err().line >= 14);
    }
}
