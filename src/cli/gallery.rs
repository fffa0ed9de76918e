//! `attnc gallery`: the examples inside this program, one for each mechanism.
//!
//! Comes in: a name, or nothing. Goes out: the list, or a file in the working directory to start from. What holds: the
//! files are those of `dsl-examples/` when the program was built; nothing that exists is overwritten unless asked.

use std::io::Write;
use std::path::{Path, PathBuf};

use include_dir::{Dir, include_dir};

use super::table::Table;
use super::ui::{self, Failure, Ui};

static EXAMPLES: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/dsl-examples");

/// Arguments.
#[derive(clap::Args)]
pub struct Args {
    /// The example to copy out; without it all are listed
    name: Option<String>,
    /// Where to write it [default: NAME.attn here]; - for standard output
    #[arg(short, long, value_name = "FILE", requires = "name")]
    out: Option<PathBuf>,
    /// Overwrite the file if it exists
    #[arg(long, requires = "name")]
    force: bool,
    /// Print JSON
    #[arg(long, conflicts_with = "name")]
    json: bool,
}

/// Does it.
pub fn run(ui: &Ui, args: &Args) -> Result<(), Failure> {
    match &args.name {
        None => list(args.json),
        Some(name) => copy(ui, name, args),
    }
}

/// Name and text of every example, by name.
fn all() -> Vec<(&'static str, &'static str)> {
    let file = |f: &'static include_dir::File<'static>| {
        let name = f.path().file_stem()?.to_str()?;
        Some((name, f.contents_utf8()?))
    };
    let attn = EXAMPLES.files().filter(|f| f.path().extension().is_some_and(|e| e == "attn"));
    let mut all: Vec<_> = attn.filter_map(file).collect();
    all.sort_unstable();
    all
}

/// The leading comment as one line.
fn about(text: &str) -> String {
    let comment = text.lines().take_while(|l| l.starts_with("//"));
    comment.map(|l| l.trim_start_matches('/').trim()).collect::<Vec<_>>().join(" ")
}

/// Up to the first full stop, colon or semicolon that ends a part.
fn title(about: &str) -> &str {
    let mut end = about.match_indices([':', ';', '.']).map(|(at, _)| at);
    let ends = |at: &usize| about[at + 1..].starts_with(' ') && !about[..*at].ends_with("al");
    end.find(ends).map_or(about.trim_end_matches('.'), |at| &about[..at])
}

fn list(json: bool) -> Result<(), Failure> {
    if json {
        let items: Vec<_> = all()
            .into_iter()
            .map(|(name, text)| serde_json::json!({ "name": name, "about": about(text) }))
            .collect();
        return ui::print(&serde_json::Value::from(items).to_string());
    }
    let mut table = Table::of_facts("example", "");
    for (name, text) in all() {
        table.row([name.to_string(), title(&about(text)).to_string()]);
    }
    ui::print(&format!("{table}\n`attnc gallery NAME` copies one here"))
}

fn copy(ui: &Ui, name: &str, args: &Args) -> Result<(), Failure> {
    let wanted = name.trim_end_matches(".attn");
    let Some((_, text)) = all().into_iter().find(|(n, _)| *n == wanted) else {
        return Err(
            Failure::usage(format!("there is no example `{wanted}`")).help("`attnc gallery` lists them")
        );
    };
    let path = args.out.clone().unwrap_or_else(|| PathBuf::from(format!("{wanted}.attn")));
    if path == Path::new("-") {
        return ui::print(text.trim_end());
    }
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(!args.force);
    if args.force {
        options.create(true).truncate(true);
    }
    let mut file = options.open(&path).map_err(|err| {
        let failure = Failure::wrong(format!("cannot write {}: {err}", path.display()));
        if err.kind() == std::io::ErrorKind::AlreadyExists {
            failure.help("name another file with -o, or overwrite it with --force")
        } else {
            failure
        }
    })?;
    file.write_all(text.as_bytes())
        .map_err(|err| Failure::wrong(format!("cannot write {}: {err}", path.display())))?;
    ui.note(&format!("{}; now `attnc test {0}`", path.display()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_example_says_what_it_is() {
        let all = all();
        assert!(all.len() >= 15);
        for (name, text) in all {
            let about = about(text);
            assert!(about.len() > 20, "{name}: {about}");
            assert!(!title(&about).is_empty() && title(&about).len() < 140, "{name}: {}", title(&about));
        }
    }
}
