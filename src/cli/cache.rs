//! `attnc cache`: the compiled kernels on disk.
//!
//! The cache is where `ATTN_CACHE_DIR` says, else in the XDG cache directory. See `attn_runtime::cache`.

use std::time::{Duration, SystemTime};

use attn_runtime::cache::{Cache, CacheEntry};

use super::table::Table;
use super::ui::{self, Failure, Ui};

/// Arguments.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Print the directory
    Dir,
    /// List the entries, most recently used first
    List,
    /// Print counts and sizes
    Stats,
    /// Delete every entry
    Clear {
        /// Delete the winners of `attnc tune` as well
        #[arg(long)]
        tuned: bool,
    },
}

/// Does it.
pub fn run(ui: &Ui, args: &Args) -> Result<(), Failure> {
    let (cache, warning) = Cache::open();
    if let Some(warning) = warning {
        ui.warn(&warning.to_string());
    }
    let dir = cache.dir().map(|d| d.display().to_string());
    let Some(dir) = dir else {
        return Err(Failure::wrong("there is no cache").help("unset ATTN_CACHE_MAX=0, or set ATTN_CACHE_DIR"));
    };
    match args.action {
        Action::Dir if args.json => ui::print(&serde_json::json!({ "schema": 1, "dir": dir }).to_string()),
        Action::Dir => ui::print(&dir),
        Action::List => list(&cache.list(), args.json),
        Action::Stats => stats(&cache, &dir, args.json),
        Action::Clear { tuned } => {
            let cleared = cache.clear().and_then(|n| Ok(n + if tuned { cache.clear_tuned()? } else { 0 }));
            let freed = cleared.map_err(|err| Failure::wrong(format!("{dir}: cannot be cleared: {err}")))?;
            if args.json {
                return ui::print(&serde_json::json!({ "schema": 1, "freed_bytes": freed }).to_string());
            }
            ui::print(&format!("freed {freed} bytes in {dir}"))
        }
    }
}

fn age(entry: &CacheEntry) -> Duration {
    SystemTime::now().duration_since(entry.used).unwrap_or_default()
}

fn list(entries: &[CacheEntry], json: bool) -> Result<(), Failure> {
    if json {
        let entries: Vec<_> = entries
            .iter()
            .map(|e| serde_json::json!({ "name": e.name, "bytes": e.bytes, "age_s": age(e).as_secs() }))
            .collect();
        return ui::print(&serde_json::json!({ "schema": 1, "entries": entries }).to_string());
    }
    let mut table = Table::new(&["entry", "bytes", "last used"]);
    for e in entries {
        let (key, kind) = e.name.split_once('.').unwrap_or((&e.name, ""));
        let key: String = key.chars().take(16).collect();
        table.row([format!("{key}.{kind}"), e.bytes.to_string(), format!("{} s ago", age(e).as_secs())]);
    }
    ui::print(&table.to_string())
}

fn stats(cache: &Cache, dir: &str, json: bool) -> Result<(), Failure> {
    let s = cache.stat();
    if json {
        let text = serde_json::json!({
            "schema": 1, "dir": dir, "kernels": s.kernels, "indices": s.indices, "bytes": s.bytes,
            "max_bytes": s.max_bytes, "tuned": cache.list_tuned().len(),
        });
        return ui::print(&text.to_string());
    }
    let mut table = Table::of_facts("cache", dir);
    table.row(["kernels".into(), s.kernels.to_string()]);
    table.row(["plans that lead to them".into(), s.indices.to_string()]);
    table.row(["bytes".into(), s.bytes.to_string()]);
    table.row(["tuned schedules".into(), cache.list_tuned().len().to_string()]);
    table.row(["at most".into(), s.max_bytes.to_string()]);
    ui::print(&table.to_string())
}
