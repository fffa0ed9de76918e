//! The verbs of `attnc`, one file each.
//!
//! Comes in: arguments. Goes out: results on standard output, everything else on standard error, and a
//! [`Status`]. What holds: whatever the arguments and files are, the process ends with one of the five statuses
//! and a text that says why.

mod args;
mod bench;
mod bisect;
mod build;
mod cache;
mod cases;
mod check;
mod compare;
mod completions;
mod data;
mod device_code;
mod device_counts;
mod device_report;
mod executed;
mod explain;
mod explain_gpu;
mod explain_recur;
mod explain_show;
mod fmt;
mod gallery;
mod gpu_model;
mod measure;
mod page;
mod picture;
mod planned;
mod positions;
mod problem;
mod random;
mod reference;
mod ring_work;
mod run;
mod session;
mod simulated;
mod sizes;
mod source;
mod stages;
mod study;
mod table;
mod test;
mod tiles;
mod traffic;
mod tune;
mod ui;
mod view;
mod work;

use std::sync::LazyLock;

use attn_compiler::backend::cpu::CRANELIFT_VERSION;
use attn_compiler::diagnostic::Code;
use clap::{Parser, Subcommand};

pub use ui::Status;
use ui::{ColorChoice, ErrorFormat, Failure, Ui};

/// The version of this program and of its code generator.
fn version() -> &'static str {
    static TEXT: LazyLock<String> =
        LazyLock::new(|| format!("{} (cranelift {CRANELIFT_VERSION})", env!("CARGO_PKG_VERSION")));
    &TEXT
}

/// A compiler for attention: from a .attn file to a fused, tiled kernel.
#[derive(Parser)]
#[command(name = "attnc", version = version(), max_term_width = 100, arg_required_else_help = true)]
#[command(
    after_help = "Exit codes: 0 fine, 1 the specification or the data is wrong, 2 usage, 3 a check or \
                        comparison failed, 70 a bug of attnc."
)]
struct Cli {
    /// When to use colours
    #[arg(long, global = true, value_enum, default_value_t = ColorChoice::Auto, value_name = "WHEN")]
    color: ColorChoice,
    /// How errors are written to standard error
    #[arg(long, global = true, value_enum, default_value_t = ErrorFormat::Human, value_name = "FORMAT")]
    error_format: ErrorFormat,
    /// Explain a diagnostic code, such as E0101
    #[arg(long, value_name = "CODE", exclusive = true)]
    explain: Option<String>,
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Subcommand)]
enum Verb {
    /// Say everything there is to say about a specification; with --target or --at also what a target makes of it
    Check(check::Args),
    /// Tell what was decided for a kernel: conventions, schedule, tiles by mask clause, work, bytes, promises
    Explain(explain::Args),
    /// Draw the mask as tiles: in the terminal, as an interactive page, PNG or SVG
    View(view::Args),
    /// Write the stages of a kernel: tree, attention IR, schedule, tile IR, CLIF, assembly
    Build(build::Args),
    /// Format specifications
    Fmt(fmt::Args),
    /// Compile a kernel, run it on tensors from files or made-up ones, and check the result
    Run(run::Args),
    /// Run the `test` grids of a file against the dense f64 reference
    Test(test::Args),
    /// Measure a kernel
    Bench(bench::Args),
    /// Measure schedules of a kernel and keep the best for this CPU
    Tune(tune::Args),
    /// List the examples inside this program, or copy one here to start from
    Gallery(gallery::Args),
    /// Look at or empty the cache of compiled kernels
    Cache(cache::Args),
    /// Print a completion script for a shell
    Completions(completions::Args),
}

/// Runs the command line of this process.
pub fn main() -> Status {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(err) => {
            let status = if err.use_stderr() { Status::Usage } else { Status::Fine };
            // A closed pipe leaves nothing to be said.
            let _ = err.print();
            return status;
        }
    };
    let ui = Ui::new(cli.color, cli.error_format);
    let result = match (&cli.explain, cli.verb) {
        (Some(code), _) => explain_code(code),
        (None, Some(verb)) => dispatch(&ui, verb),
        (None, None) => Err(Failure::usage("a verb is expected; see `attnc --help`")),
    };
    match result {
        Ok(()) => Status::Fine,
        Err(failure) => ui.failed(&failure),
    }
}

fn dispatch(ui: &Ui, verb: Verb) -> Result<(), Failure> {
    match verb {
        Verb::Check(args) => check::run(ui, &args),
        Verb::Explain(args) => explain::run(ui, &args),
        Verb::View(args) => view::run(ui, &args),
        Verb::Build(args) => build::run(ui, &args),
        Verb::Fmt(args) => fmt::run(ui, &args),
        Verb::Run(args) => run::run(ui, &args),
        Verb::Test(args) => test::run(ui, &args),
        Verb::Bench(args) => bench::run(ui, &args),
        Verb::Tune(args) => tune::run(ui, &args),
        Verb::Gallery(args) => gallery::run(ui, &args),
        Verb::Cache(args) => cache::run(ui, &args),
        Verb::Completions(args) => completions::run::<Cli>(&args),
    }
}

/// Prints the page of a code.
fn explain_code(code: &str) -> Result<(), Failure> {
    match Code::from_id(code) {
        Some(code) => ui::print(&format!("{}: {}\n\n{}", code.id(), code.title(), code.explanation())),
        None => Err(Failure::usage(format!("there is no code `{code}`; codes look like E0101"))),
    }
}
