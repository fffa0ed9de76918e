//! Arguments that several verbs share, and the values in them.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use attn_compiler::artifact::DType;
use attn_compiler::expr::Ty;
use attn_compiler::expr::eval::Value;
use attnc::Schedules;
use attnc::io::Source;

use super::ui::Failure;

/// Which kernel, at which sizes, for what.
#[derive(clap::Args)]
pub struct KernelArgs {
    /// The specification
    #[arg(value_name = "FILE.attn")]
    pub file: PathBuf,
    /// Which kernel of the file, where it holds several
    #[arg(long, value_name = "NAME")]
    pub kernel: Option<String>,
    /// Sizes of dims, such as Sq=2048,D=64
    #[arg(long, value_name = "DIM=N", value_delimiter = ',', value_parser = parse_dim)]
    pub at: Vec<(String, i64)>,
    /// Values of parameters, such as window=512
    #[arg(long, value_name = "NAME=VALUE", value_delimiter = ',', value_parser = parse_pair)]
    pub param: Vec<(String, String)>,
    /// What to compile for: cpu; cuda (the GPU of this machine); sm_80, sm_86, sm_89, sm_90a (not run here); sim:sm_80 and
    /// so on (run in the simulator)
    #[arg(long, value_name = "TARGET", default_value = "cpu")]
    pub target: String,
    /// Threads [default: all that the host grants, or ATTN_NUM_THREADS]
    #[arg(long, value_name = "N")]
    pub threads: Option<NonZeroUsize>,
    /// What the simulator's order of warps and blocks follows from
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub sim_seed: u64,
    /// Ranks of a distributed kernel, simulated in this process [default: what the text says, else 4]
    #[arg(long, value_name = "N")]
    pub ranks: Option<NonZeroUsize>,
    #[command(flatten)]
    pub schedules: ScheduleArgs,
}

/// Where schedules come from.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ScheduleArgs {
    /// What the text does not fix of schedules: `tuned` takes winners of `attnc tune`, `auto` the compiler's choice
    /// [default: what ATTN_SCHEDULE says, else tuned]
    #[arg(long, value_name = "WHICH", value_enum, hide_possible_values = true)]
    pub schedule: Option<ScheduleChoice>,
    /// Pin the schedules of a file (`attnc tune -o`, `attnc build --emit=schedule-file`)
    #[arg(long, value_name = "FILE", conflicts_with = "schedule")]
    pub schedule_file: Option<PathBuf>,
}

/// `--schedule`
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ScheduleChoice {
    /// Winners of `attnc tune`, where there are any
    Tuned,
    /// The compiler's choice
    Auto,
}

impl ScheduleArgs {
    /// As the facade takes it; none where nothing is said.
    pub fn schedules(&self) -> Result<Option<Schedules>, Failure> {
        match (&self.schedule_file, self.schedule) {
            (Some(path), _) => Ok(Some(Schedules::from_file(path)?)),
            (None, Some(ScheduleChoice::Tuned)) => Ok(Some(Schedules::tuned())),
            (None, Some(ScheduleChoice::Auto)) => Ok(Some(Schedules::automatic())),
            (None, None) => Ok(None),
        }
    }
}

/// `NAME=VALUE`
pub fn parse_pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() && !value.is_empty() => {
            Ok((name.trim().into(), value.trim().into()))
        }
        _ => Err("expected NAME=VALUE".into()),
    }
}

/// `DIM=N`
pub fn parse_dim(text: &str) -> Result<(String, i64), String> {
    let (name, value) = parse_pair(text)?;
    let size = parse_int(&value).filter(|n| *n >= 0);
    let size = size.ok_or_else(|| format!("`{value}` is no size; expected such as 2048 or 4Ki"))?;
    Ok((name, size))
}

/// An int with the suffixes of the language: K, M, Ki, Mi.
fn parse_int(text: &str) -> Option<i64> {
    const SUFFIXES: [(&str, i64); 4] = [("Ki", 1 << 10), ("Mi", 1 << 20), ("K", 1000), ("M", 1_000_000)];
    let (digits, unit) = SUFFIXES
        .iter()
        .find_map(|(suffix, unit)| Some((text.strip_suffix(suffix)?, *unit)))
        .unwrap_or((text, 1));
    digits.replace('_', "").parse::<i64>().ok()?.checked_mul(unit)
}

/// A parameter's value in its declared type.
pub fn parse_value(name: &str, text: &str, ty: Ty) -> Result<Value, Failure> {
    let value = match ty {
        Ty::Bool => text.parse().ok().map(Value::Bool),
        Ty::Int => parse_int(text).map(Value::Int),
        Ty::Float => text.parse().ok().or_else(|| parse_int(text).map(|n| n as f64)).map(Value::Float),
    };
    let wanted = match ty {
        Ty::Bool => "true or false",
        Ty::Int => "an int",
        Ty::Float => "a float",
    };
    value.ok_or_else(|| Failure::usage(format!("--param {name}={text}: expected {wanted}")))
}

/// `f32`, `f16`, `bf16`
pub fn parse_dtype(text: &str) -> Result<DType, String> {
    match DType::from_name(text) {
        Some(dtype @ (DType::F32 | DType::F16 | DType::Bf16)) => Ok(dtype),
        _ => Err("expected f32, f16 or bf16".into()),
    }
}

/// `NAME=FILE[:TENSOR]`
#[derive(Clone, Debug)]
pub struct NamedSource {
    /// Tensor of the kernel.
    pub name: String,
    /// Where it is read or written.
    pub source: Source,
}

/// Reads `NAME=FILE[:TENSOR]`.
pub fn parse_named(text: &str) -> Result<NamedSource, String> {
    let (name, source) = parse_pair(text).map_err(|_| "expected NAME=FILE".to_string())?;
    Ok(NamedSource { name, source: Source::parse(&source) })
}

/// `[NAME=]FILE[:TENSOR]`
#[derive(Clone, Debug)]
pub enum BindArg {
    /// One input.
    One(NamedSource),
    /// Every input that the file holds by name.
    All(PathBuf),
}

/// Reads `[NAME=]FILE[:TENSOR]`. A file whose own name has a `=` needs a NAME.
pub fn parse_bind(text: &str) -> Result<BindArg, String> {
    if text.contains('=') {
        return parse_named(text).map(BindArg::One);
    }
    let source = Source::parse(text);
    match source.member {
        None if !text.is_empty() => Ok(BindArg::All(source.path)),
        _ => Err("expected NAME=FILE, or the name of a file alone".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_take_the_suffixes_of_the_language() {
        assert_eq!(parse_dim("Sq=4Ki"), Ok(("Sq".into(), 4096)));
        assert_eq!(parse_dim("Sq=1_000").map(|d| d.1), Ok(1000));
        assert_eq!(parse_int("2M"), Some(2_000_000));
        assert!(parse_dim("Sq=-1").is_err() && parse_dim("Sq").is_err() && parse_dim("Sq=9e99").is_err());
        assert!(parse_int("9223372036854775807Ki").is_none(), "overflow is refused");
    }

    #[test]
    fn binds() {
        assert!(matches!(parse_bind("x.safetensors"), Ok(BindArg::All(_))));
        let Ok(BindArg::One(one)) = parse_bind("q=x.npz:layer.q") else { panic!("a named bind") };
        assert_eq!((one.name.as_str(), one.source.to_string()), ("q", "x.npz:layer.q".into()));
        assert!(parse_bind("x.npz:q").is_err(), "a tensor of an archive needs the name of an input");
    }
}
